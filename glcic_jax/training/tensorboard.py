"""Numbers and pictures for TensorBoard, written at once: an error comes up where it happens.

tensorboardX's own SummaryWriter writes from a thread behind a queue; where that thread dies, of a full disk for
one, the training would wait for it for ever.
"""

import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2


class TensorBoard:
    """One file of events.

    Args:
      folder: Where it lies, beside those of the processes before.
      start_step: The step that training begins at; what those have shown of later ones is hidden.
    """

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start), start_step + 1)
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve."""
        self._write(event_pb2.Event(summary=summary.scalar(name, value)), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture, [H, W, 3] uint8."""
        self._write(event_pb2.Event(summary=summary.image(name, image, dataformats="HWC")), step)

    def flush(self) -> None:
        """Brings everything written so far to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()

    def _write(self, event: event_pb2.Event, step: int) -> None:
        event.step = step
        event.wall_time = time.time()
        self._writer.write_event(event)
