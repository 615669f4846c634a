"""`glcic evaluate` as a user runs it, compared with scikit-image on the pictures that it saves."""

import csv
import io
import json
import shutil
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import command_runner
from helpers.reference_metrics import sharpness, skimage_ssim
from PIL import Image
from skimage import data

from glcic_jax.commands.main import cli
from glcic_jax.completion.completer import Completer
from glcic_jax.errors import DataError, UserError
from glcic_jax.evaluation import evaluate
from glcic_jax.evaluation.evaluator import MeasuredImage, Measurements
from glcic_jax.evaluation.images import Selection, open_images
from glcic_jax.evaluation.mask_sets.sets import open_mask_set, summarise
from glcic_jax.evaluation.perceptual import fid
from glcic_jax.model.metrics import measure
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.pictures.rgb_files import load_image
from glcic_jax.weights.file import Description, Weights, save_weights

NETWORK = CompletionNetwork(1 / 16)
SIDE = 32
SIZES = [(40, 52), (64, 33), (35, 35), (50, 80), (33, 47), (70, 36), (45, 45)]
FILES = {"evaluation.json", "images.csv", "report.html", "table.md"}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    variables = NETWORK.init(jax.random.key(3), jnp.zeros((1, 8, 8, 4)))
    variables["params"]["conv17"]["kernel"] *= 60.0
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    description = Description("mean_subtracted", (0.5,) * 3, SIDE, (8, 16), "a test")
    save_weights(Weights(NETWORK, jax.tree.map(np.asarray, variables), description), path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Seven photographs, a damaged file, and one too small to be measured."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "below").mkdir()
    for place, (height, width) in enumerate(SIZES):
        name = f"below/p{place}.png" if place % 3 == 2 else f"p{place}.png"
        Image.fromarray(data.astronaut()[40 * place :, 60:][:height, :width]).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    Image.fromarray(np.zeros((8, 90, 3), np.uint8)).save(folder / "small.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GLCIC_WEIGHTS", raising=False)
    return tmp_path


def run(*arguments, code=0, report="out"):
    """What `glcic evaluate` writes to stdout and stderr; the message if it is an error for the user."""
    result = command_runner().invoke(cli, ["evaluate", *map(str, arguments), "--report", str(report)])
    if isinstance(result.exception, UserError):
        assert result.exception.exit_code == code, result.exception
        return "", str(result.exception)
    assert result.exit_code == code, result.stderr
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout, result.stderr


def run_mean(*arguments, **kept):
    """Evaluates the mean fill alone, which is the fastest."""
    return run("mean", "--baselines", "", "--no-blending", "--size", 24, *arguments, **kept)


def table(report="out") -> dict[tuple[str, str], dict[str, float]]:
    """images.csv: by method and image, every number."""
    with (Path(report) / "images.csv").open(newline="") as file:
        return {
            (row.pop("method"), row.pop("image")): {k: float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        }


def rows(report="out") -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((Path(report) / "evaluation.json").read_text())["rows"]}


def protocol(report="out") -> dict[str, str]:
    return json.loads((Path(report) / "evaluation.json").read_text())["protocol"]


def expected(completed, image, hole) -> dict[str, float]:
    """The metrics of two 8-bit pictures by scikit-image and NumPy in float64."""
    one, other = completed / 255.0, image / 255.0
    mean, full = skimage_ssim(one, other, full=True)
    l1, l2 = np.abs(one - other), (one - other) ** 2
    return {
        "l1": l1.mean(),
        "l2": l2.mean(),
        "psnr": -10 * np.log10(l2.mean()),
        "ssim": mean,
        "hole_l1": l1[hole].mean(),
        "hole_l2": l2[hole].mean(),
        "hole_psnr": -10 * np.log10(l2[hole].mean()),
        "hole_ssim": full[hole].mean(),
        "hole_sharpness": sharpness(one, other, hole),
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, weights_file, photographs):
    """A whole evaluation: its folder, with what it saved in `saved`, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLCIC_HOME", str(folder / "home"))
        printed = run(
            weights_file, "--data", f"folder:{photographs}", "--save", folder / "saved", "--batch-size", 3,
            report=folder,
        )  # fmt: skip
    return folder, printed


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def network_folder(saved) -> Path:
    (folder,) = [path for path in saved.iterdir() if path.name.endswith("tiny.safetensors")]
    return folder


def test_every_number_is_that_of_the_saved_pictures(evaluated):
    folder, _ = evaluated
    numbers = table(folder)
    assert len(numbers) == len(SIZES) * 8
    for (method, name), found in numbers.items():
        below = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in method)
        completed = picture(folder / "saved" / below / name)
        image, hole = (picture(folder / "saved" / kind / name) for kind in ("originals", "masks"))
        hole = hole[..., 0] > 0
        assert completed.shape == (SIDE, SIDE, 3)
        np.testing.assert_array_equal(completed[~hole], image[~hole])
        for metric, value in expected(completed, image, hole).items():
            assert found[metric] == pytest.approx(value, abs=1e-5, rel=2e-6), (method, name, metric)
        assert found["hole_ratio"] == hole.mean()
    # The damaged file keeps its place.
    assert {name: numbers["index"] for (_, name), numbers in numbers.items()} == {
        "below/p2.png": 0, "below/p5.png": 1, "p0.png": 3, "p1.png": 4, "p3.png": 5, "p4.png": 6, "p6.png": 7,
    }  # fmt: skip


def test_means_are_those_of_the_images(evaluated):
    folder, (stdout, _) = evaluated
    numbers, found = table(folder), rows(folder)
    assert len(found) == 8
    for name, row in found.items():
        for metric, interval in row["metrics"].items():
            values = [one[metric] for (method, _), one in numbers.items() if method == name]
            assert interval["mean"] == pytest.approx(np.mean(values))
            assert interval["low"] <= interval["mean"] <= interval["high"]
        assert row["images_per_second"] > 0
        assert row["fid"] is None
        assert name[-23:] in stdout  # Long ones are shortened in the middle.
    assert max(map(len, stdout.splitlines())) <= 100
    assert "LPIPS: not computed" in stdout
    assert "FID: not computed" in stdout


def test_images_that_cannot_be_measured_are_named_and_skipped(evaluated):
    _, (_, stderr) = evaluated
    assert "2 images were skipped" in stderr
    assert "broken.jpg" in stderr
    assert "small.png" in stderr


def test_masks_are_those_of_the_set(evaluated):
    saved = evaluated[0] / "saved" / "masks"
    assert len(list(saved.rglob("*.png"))) == len(SIZES)
    # Unreadable files keep their places, so that repairing one moves no other image's mask.
    masks = open_mask_set("paper:seed=0")
    for place, name in ((0, "below/p2.png"), (3, "p0.png"), (7, "p6.png")):
        np.testing.assert_array_equal(picture(saved / name)[..., 0] > 0, masks.hole(place, (SIDE, SIDE)))
    assert "paper:seed=0; sha256 " in protocol(evaluated[0])["Masks"]


def test_the_hash_of_the_masks_is_that_of_glcic_masks(here, photographs):
    shutil.copytree(photographs, here / "good", ignore=shutil.ignore_patterns("broken.jpg", "small.png"))
    run_mean("--data", "folder:good", "--masks", "box:seed=2")
    assert summarise(open_mask_set("box:seed=2"), len(SIZES), (24, 24)).record.sha256 in protocol()["Masks"]


def test_a_folder_of_the_saved_completions_measures_the_same(here, evaluated):
    folder, _ = evaluated
    saved = folder / "saved"
    run(
        network_folder(saved), "--data", f"folder:{saved / 'originals'}", "--masks", f"folder:{saved / 'masks'}",
        "--baselines", "telea", "--no-blending",
    )  # fmt: skip
    before, after = table(folder), table()
    network = next(method for method, _ in before if method.endswith("tiny.safetensors"))
    assert len(after) == 2 * len(SIZES)
    for (method, name), found in after.items():
        same = before["Telea" if method == "Telea" else network, name]
        for metric in ("hole_l1", "psnr", "ssim", "hole_ssim", "hole_ratio"):
            assert found[metric] == pytest.approx(same[metric], rel=1e-6), (method, name, metric)


def test_completions_are_those_of_the_completer(evaluated, weights_file):
    saved, completer = evaluated[0] / "saved", Completer.load(weights_file, "cpu")
    subject = network_folder(saved)
    for path in sorted(subject.rglob("*.png"))[:3]:
        name = path.relative_to(subject)
        image, mask = picture(saved / "originals" / name), picture(saved / "masks" / name)[..., 0]
        completed = completer.complete(image, mask, blend="off")
        # Rounded to 8 bits after sums in the order of a batch.
        assert np.abs(completed.astype(int) - picture(path)).max() <= 1
        assert (completed != picture(path)).mean() < 0.01
        blended = completer.complete(image, mask, blend="on")
        other = picture(saved / f"{subject.name}__blended" / name)
        assert np.abs(blended.astype(int) - other).max() <= 1


def test_an_interrupted_evaluation_leaves_no_report_and_starts_again(here, photographs, monkeypatch):
    batches = []

    def stop_in_the_second_batch(*arguments):
        batches.append(arguments)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("glcic_jax.evaluation.evaluator.measure", stop_in_the_second_batch)
        _, printed = run_mean("--data", f"folder:{photographs}", "--batch-size", 2, code=130)
    assert "no report; the same command starts over" in printed
    assert not Path("out").exists()
    run_mean("--data", f"folder:{photographs}", "--batch-size", 2)
    assert {path.name for path in Path("out").iterdir()} == FILES
    assert len(table()) == len(SIZES)


def test_a_finished_report_is_replaced_only_if_asked(here, photographs):
    run_mean("--data", f"folder:{photographs}", "--count", 2)
    before = Path("out/images.csv").read_bytes()
    _, message = run_mean("--data", f"folder:{photographs}", "--count", 3, code=2)
    assert "holds a finished report: give --overwrite or another --report" in message
    assert Path("out/images.csv").read_bytes() == before
    run_mean("--data", f"folder:{photographs}", "--count", 4, "--overwrite")
    assert Path("out/images.csv").read_bytes() != before


def test_images_of_any_size_are_measured_as_they_are(here, photographs, weights_file):
    run(
        weights_file, "--data", f"folder:{photographs}", "--size", "original", "--masks", "centre", "--count", 4,
        "--save", "saved", "--baselines", "mean", "--no-blending",
    )  # fmt: skip
    found = table()
    assert len(found) == 2 * 3
    for (method, name), numbers in found.items():
        image = load_image(photographs / name)
        hole = open_mask_set("centre").hole(0, image.shape[:2])
        folder = Path("saved/mean_fill") if method == "mean fill" else network_folder(Path("saved"))
        for metric, value in expected(picture(folder / name), image, hole).items():
            assert numbers[metric] == pytest.approx(value, abs=1e-5, rel=3e-6), (method, name, metric)


def test_measure_pads_images_to_few_sizes():
    rng = np.random.default_rng(0)
    image = data.astronaut()[:71, :45]
    completed = np.clip(image + rng.integers(-30, 31, image.shape), 0, 255).astype(np.uint8)
    hole = rng.uniform(size=image.shape[:2]) < 0.2
    hole[50:, 30:] = True  # Up to the padding.
    found = measure(np.stack([completed, image]), np.stack([image, image]), np.stack([hole, ~hole]))
    for metric, value in expected(completed, image, hole).items():
        assert found[metric][0] == pytest.approx(value, abs=1e-5, rel=2e-6), metric
    assert found["psnr"][1] == np.inf
    assert found["ssim"][1] == pytest.approx(1.0, abs=1e-6)


def test_a_completion_changed_outside_its_hole_is_noted(here, evaluated):
    saved = evaluated[0] / "saved"
    shutil.copytree(saved / "Telea", "theirs")
    pixels = picture("theirs/p0.png").copy()
    pixels[0, :5] ^= 255
    Image.fromarray(pixels).save("theirs/p0.png")
    images, masks = f"folder:{saved / 'originals'}", f"folder:{saved / 'masks'}"
    _, printed = run("theirs", "--data", images, "--masks", masks, "--baselines", "")
    assert "theirs: 1 completed image changed outside the hole too (in 5 pixels on average)" in printed
    (found,) = rows().values()
    assert found["images_per_second"] is None


class ColourFeatures:
    """Stands in for FID's network: features of the mean colour."""

    description = "a stand-in"

    def features(self, image):
        spread = np.random.default_rng(0).normal(size=(3, 24)) / 255
        return (image.mean(axis=(1, 2)) @ spread).astype(np.float32)


def test_fid_is_that_of_the_features_of_all_images(here, photographs, monkeypatch):
    monkeypatch.setattr(evaluate.fid, "load", lambda path: ColourFeatures())
    options = ("--size", 24, "--fid", "x.pth", "--batch-size", 2, "--baselines", "", "--no-blending")
    stdout, stderr = run("telea", "--data", f"folder:{photographs}", *options, "--save", "saved")
    statistics = []
    for folder in ("Telea", "originals"):
        pictures = np.stack([picture(path) for path in sorted((Path("saved") / folder).rglob("*.png"))])
        statistics.append(fid.Statistics())
        statistics[-1].add(ColourFeatures().features(pictures))
    assert rows()["Telea"]["fid"] == pytest.approx(fid.frechet_distance(*statistics), rel=1e-6)
    assert "FID: not computed" not in stdout
    assert "biased" in stderr


@pytest.mark.parametrize("error", [DataError("changed"), OSError("read error")])
def test_an_image_that_cannot_be_read_again_has_no_picture(error):
    evaluator = mock.Mock(pictures=mock.Mock(side_effect=error))
    assert evaluate.pictures_of(evaluator, Measurements(images=[mock.sentinel.image]))(0, ["Telea"]) == {}


@pytest.mark.parametrize(
    ("arguments", "expected_message"),
    [
        (["nowhere", "--data", "folder:{photos}"], "nowhere"),
        (["telea", "--data", "folder:missing"], "no such folder"),
        (["telea", "--data", "photos"], "give the path of a folder, samples, "),
        (["telea", "--data", "{photos}", "--split", "half"], "choose one of all, train, validation"),
        (["telea", "--data", "samples", "--listing", "a.csv"], "give --data folder:PATH"),
        (["telea", "--data", "folder:{photos}", "--masks", "squares"], "choose one of box"),
        (["telea", "--data", "folder:{photos}", "--size", "4"], "at least 11 px"),
        (["telea", "telea", "--data", "folder:{photos}"], "Telea is named twice"),
        (["telea", "--data", "folder:{photos}", "--baselines", "patchmatch"], "choose one of mean"),
        (["telea", "--data", "folder:{photos}", "--split", "half"], "choose one of all, train, validation"),
        (["telea", "--data", "tfds:no_such_data_set"], "glcic data prepare no_such_data_set"),
        (["telea", "--data", "folder:{photos}", "--device", "tpu"], "no device 'tpu'"),
        (["telea", "--data", "folder:{photos}", "--lpips", "missing.pth"], "missing.pth"),
        (
            ["{photos}/below", "--data", "folder:{photos}"],
            "holds no completed image of below/p2.png, below/p5.png, broken.jpg and 6 more",
        ),
        (["{photos}", "--data", "folder:{photos}", "--size", "24"], "give --size as they were completed"),
        (["mean", "--data", "folder:{photos}", "--save", "{photos}"], "is not an empty folder"),
        (["mean", "--data", "folder:{photos}", "--save", "{photos}/small.png"], "is not an empty folder"),
    ],
)
def test_wrong_arguments_are_one_line_and_nothing_is_written(here, photographs, arguments, expected_message):
    code = 3 if "nowhere" in arguments or "--lpips" in arguments else 2
    message = run(*(one.format(photos=photographs) for one in arguments), code=code)[1]
    assert expected_message in message
    assert len(message.splitlines()) == 1
    assert not Path("out").exists()


def test_images_that_all_cannot_be_measured_are_an_error(here):
    Path("photos").mkdir()
    Path("photos/a.jpg").write_bytes(b"no image")
    _, message = run("telea", "--data", "folder:photos", code=2)
    assert "none of the 1 images can be measured: a.jpg" in message


def test_names_that_differ_in_their_suffix_are_kept_apart(here, photographs):
    Path("photos").mkdir()
    Image.open(photographs / "p0.png").save("photos/a.jpg")
    shutil.copy(photographs / "p1.png", "photos/a.png")
    shutil.copy(photographs / "p3.png", "photos/b.png")
    run_mean("--data", "folder:photos", "--save", "saved")
    assert sorted(path.name for path in Path("saved/mean_fill").iterdir()) == ["a.jpg.png", "a.png.png", "b.png"]
    _, message = run("saved/mean_fill", "--data", "folder:photos", "--size", 24, code=2, report="other")
    assert "several images are called a but for their suffixes" in message
    run("saved/mean_fill", "--data", "folder:saved/originals", "--masks", "folder:saved/masks", report="other")


def test_unprintable_names_keep_their_masks_and_completions(here, photographs):
    for folder in ("photos", "masks", "theirs"):
        Path(folder).mkdir()
    for index, name in enumerate(("a\u202fb", "c\udcffd", "e\u0301")):
        shutil.copy(photographs / "p0.png", f"photos/{name}.png")
        shutil.copy(photographs / "p0.png", f"theirs/{name}_completed.png")
        hole = np.zeros((40, 52), np.uint8)
        hole[:10, : 10 + index] = 255
        Image.fromarray(hole).save(f"masks/{name}_mask.png")
    run("theirs", "--data", "folder:photos", "--masks", "folder:masks", "--baselines", "")
    ratios = {name: numbers["hole_ratio"] for (_, name), numbers in table().items()}
    assert sorted(ratios.values()) == pytest.approx([10 * width / 2080 for width in (10, 11, 12)])
    assert "a\\u202fb.png" in ratios
    assert "by the images' names" in Path("out/table.md").read_text().replace("\\", "")


def test_training_images_among_those_measured_are_noted(here, photographs, finished_run):
    notes, measured = [], Measurements(images=[MeasuredImage(0, "a.png", "", b"", 0.5)])
    for source, split in ((f"folder:{photographs}", "all"), ("samples", "train"), ("samples", "validation")):
        request = evaluate.Request([str(finished_run)], source, Selection(split), baselines=())
        evaluation = evaluate.conclude(evaluate.open_evaluator(request), measured, "a title")
        notes.append(" ".join(evaluation.notes))
    assert ["was trained on images of samples" in note for note in notes] == [False, True, False]


def test_an_unreadable_mask_ends_the_evaluation(here, photographs):
    Path("masks").mkdir()
    Image.fromarray(np.full((24, 24), 255, np.uint8)).save("masks/0.png")
    Path("masks/1.png").write_bytes(b"no mask")
    _, message = run_mean("--data", f"folder:{photographs}", "--masks", "folder:masks", code=2)
    assert "masks/1.png" in message


def test_two_completions_of_an_image_are_an_error(here, photographs):
    shutil.copytree(photographs / "below", "both")
    shutil.copy("both/p2.png", "both/p2_completed.jpg")
    _, message = run("both", "--data", f"folder:{photographs / 'below'}", code=2)
    assert "p2.png and p2_completed.jpg are both p2.png" in message


def test_images_of_a_tfds_data_set(here, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.utils import gcs_utils

    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", True)  # Otherwise it asks the network for known data sets.
    with tfds.core.registered.skip_registration():

        class SomePhotos(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples([0, 1, 2]), "validation": self._generate_examples([3, 4])}

            def _generate_examples(self, tags):
                for tag in tags:
                    file = io.BytesIO()
                    Image.fromarray(data.astronaut()[20 * tag :][:40, :50]).save(file, "PNG")
                    file.seek(0)
                    yield tag, {"image": file}

        SomePhotos(data_dir="prepared", file_format="array_record").download_and_prepare()
    arguments = ("--data", "tfds:some_photos", "--tfds-dir", "prepared")
    run_mean(*arguments, report="held_out")
    assert {name for _, name in table("held_out")} == {"some_photos/validation[0]", "some_photos/validation[1]"}
    run_mean(*arguments, "--split", "train", "--save", "saved", report="train")
    assert len(table("train")) == 3
    assert len(list(Path("saved/originals").rglob("*.png"))) == 3
    _, message = run_mean(*arguments, "--split", "test", code=2)
    assert "choose from train, validation" in message


def test_a_count_of_the_samples():
    images = open_images("samples", Selection(count=1))
    assert images.description == "samples, validation: 1 of 40 images, spread evenly over the listing"
    assert len(images.names) == 1
