"""`glcic evaluate` as a user runs it, against scikit-image on the pictures that it writes."""

import csv
import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import command_runner
from helpers.reference_metrics import skimage_ssim
from PIL import Image
from skimage import data

from glcic_jax.commands.main import cli
from glcic_jax.completion.completer import Completer
from glcic_jax.errors import UserError
from glcic_jax.evaluation import evaluate, evaluator
from glcic_jax.evaluation.mask_sets.sets import open_mask_set, summarise
from glcic_jax.evaluation.perceptual import fid
from glcic_jax.model.metrics import measure
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.pictures.rgb_files import load_image
from glcic_jax.weights.file import Description, Weights, save_weights

NETWORK = CompletionNetwork(1 / 16)
SIDE = 32
SIZES = [(40, 52), (64, 33), (35, 35), (50, 80), (33, 47), (70, 36), (45, 45)]


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


def run(*arguments, code=0):
    """What `glcic evaluate` prints on stdout and stderr."""
    result = command_runner().invoke(cli, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        assert result.exception.exit_code == code
        return "", str(result.exception)
    assert result.exit_code == code, result.stderr
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout, result.stderr


def table(report) -> dict[tuple[str, str], dict[str, float]]:
    """images.csv: by method and image, every number."""
    with (Path(report) / "images.csv").open(newline="") as file:
        return {
            (row.pop("method"), row.pop("image")): {k: float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        }


def rows(report) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((Path(report) / "evaluation.json").read_text())["rows"]}


def expected(completed, image, hole) -> dict[str, float]:
    """The metrics of two pictures of 8 bits, by scikit-image and NumPy in float64."""
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
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, weights_file, photographs):
    """A whole evaluation: its folder, with what it saved in `saved`, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLCIC_HOME", str(folder / "home"))
        said = run(
            weights_file, "--data", f"folder:{photographs}", "--report", folder, "--save", folder / "saved",
            "--batch-size", 3,
        )  # fmt: skip
    return folder, said


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_number_is_that_of_the_saved_pictures(evaluated):
    folder, _ = evaluated
    numbers = table(folder)
    assert len(numbers) == len(SIZES) * 8
    folders = {"Telea": "Telea", "Telea, blended": "Telea__blended"}
    for (method, name), found in numbers.items():
        saved = (
            folder / "saved" / folders.get(method, method.replace(", ", "__").replace(" ", "_").replace("/", "_"))
        )
        completed, image = picture(saved / name), picture(folder / "saved" / "originals" / name)
        hole = picture(folder / "saved" / "masks" / name)[..., 0] > 0
        assert completed.shape == (SIDE, SIDE, 3)
        np.testing.assert_array_equal(completed[~hole], image[~hole])
        for metric, value in expected(completed, image, hole).items():
            assert found[metric] == pytest.approx(value, abs=1e-5, rel=2e-6), (method, name, metric)
        assert found["hole_ratio"] == hole.mean()
    # Places of the data set, in which the damaged file has one.
    assert {name: numbers["index"] for (_, name), numbers in numbers.items()} == {
        "below/p2.png": 0, "below/p5.png": 1, "p0.png": 3, "p1.png": 4, "p3.png": 5, "p4.png": 6, "p6.png": 7,
    }  # fmt: skip


def test_the_means_are_those_of_the_images(evaluated):
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
        assert name in stdout
    assert "LPIPS: not computed" in stdout
    assert "FID: not computed" in stdout


def test_what_cannot_be_measured_is_named_and_left_out(evaluated):
    _, (_, stderr) = evaluated
    assert "2 images were passed over" in stderr
    assert "broken.jpg" in stderr
    assert "small.png" in stderr


def test_masks_are_those_of_the_set_and_their_hash_stands_in_the_protocol(evaluated):
    folder, _ = evaluated
    protocol = json.loads((folder / "evaluation.json").read_text())["protocol"]
    names = sorted(
        path.relative_to(folder / "saved" / "masks") for path in (folder / "saved/masks").rglob("*.png")
    )
    assert len(names) == len(SIZES)
    # Places count files that cannot be read, so that a file that is mended moves no other's mask.
    masks = open_mask_set("paper:seed=0")
    for place, name in ((0, "below/p2.png"), (3, "p0.png"), (7, "p6.png")):
        hole = picture(folder / "saved" / "masks" / name)[..., 0] > 0
        np.testing.assert_array_equal(hole, masks.hole(place, (SIDE, SIDE)))
    assert "paper:seed=0; sha256 " in protocol["Masks"]


def test_the_hash_is_what_glcic_masks_prints(here, photographs):
    shutil.copytree(photographs, here / "good", ignore=shutil.ignore_patterns("broken.jpg", "small.png"))
    run(
        "mean",
        "--data",
        "folder:good",
        "--size",
        24,
        "--masks",
        "box:seed=2",
        "--baselines",
        "",
        "--report",
        "out",
    )
    protocol = json.loads(Path("out/evaluation.json").read_text())["protocol"]
    assert summarise(open_mask_set("box:seed=2"), len(SIZES), (24, 24)).record.sha256 in protocol["Masks"]


def test_a_folder_of_the_saved_pictures_measures_the_same(here, evaluated):
    folder, _ = evaluated
    saved = folder / "saved"
    (subject,) = [path for path in saved.iterdir() if path.name.endswith("tiny.safetensors")]
    run(
        subject, "--data", f"folder:{saved / 'originals'}", "--masks", f"folder:{saved / 'masks'}",
        "--report", "out", "--baselines", "telea", "--no-blending",
    )  # fmt: skip
    before, after = table(folder), table("out")
    assert len(after) == 2 * len(SIZES)
    for (method, name), found in after.items():
        (same,) = [
            key
            for key in before
            if key == (method if method == "Telea" else key[0], name)
            and (method == "Telea" or key[0].endswith("tiny.safetensors"))
        ]
        for metric in ("hole_l1", "psnr", "ssim", "hole_ssim", "hole_ratio"):
            assert found[metric] == pytest.approx(before[same][metric], rel=1e-6), (method, name, metric)


def test_completions_are_those_of_the_completer(here, evaluated, weights_file):
    folder, _ = evaluated
    saved, completer = folder / "saved", Completer.load(weights_file, "cpu")
    (subject,) = [path for path in saved.iterdir() if path.name.endswith("tiny.safetensors")]
    for path in sorted(subject.rglob("*.png"))[:3]:
        name = path.relative_to(subject)
        completed = completer.complete(
            picture(saved / "originals" / name), picture(saved / "masks" / name)[..., 0]
        )
        # Rounded to 8 bits from sums in another order, a batch's.
        assert np.abs(completed.astype(int) - picture(path)).max() <= 1
        assert (completed != picture(path)).mean() < 0.01
        blended = completer.complete(
            picture(saved / "originals" / name), picture(saved / "masks" / name)[..., 0], blend=True
        )
        other = picture(saved / f"{subject.name}__blended" / name)
        assert np.abs(blended.astype(int) - other).max() <= 1


def test_the_same_command_goes_on_where_it_was_stopped(here, photographs, weights_file, monkeypatch):
    arguments = (weights_file, "--data", f"folder:{photographs}", "--batch-size", 2)
    run(*arguments, "--report", "whole")
    run(*arguments, "--report", "parts")
    journal = Path("parts/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    looked_at = []
    batches = evaluator.Examples.batches

    def watched(self, indices, most):
        looked_at.extend(indices := list(indices))
        return batches(self, indices, most)

    monkeypatch.setattr(evaluator.Examples, "batches", watched)
    _, said = run(*arguments, "--report", "parts")
    kept = [record["index"] for record in map(json.loads, lines[1:5]) if "skipped" not in record]
    assert f"{len(kept)} of 9 images were measured before" in said
    assert looked_at == [index for index in range(9) if index not in kept]  # The damaged ones once more.
    parts, whole = table("parts"), table("whole")
    assert list(parts) == list(whole)
    for key, numbers in whole.items():
        assert parts[key] == pytest.approx(numbers, rel=1e-6), key  # Sums over batches of another size.
    # What it was asked for is another evaluation now.
    _, said = run(*arguments, "--report", "parts", "--masks", "box", code=2)
    assert "masks: paper:seed=0 -> box:seed=0" in said
    run(*arguments, "--report", "parts", "--masks", "box", "--restart")


def test_pictures_of_any_size_are_measured_as_they_are(here, photographs, weights_file):
    run(
        weights_file, "--data", f"folder:{photographs}", "--size", "original", "--masks", "centre",
        "--report", "out", "--save", "saved", "--baselines", "mean", "--no-blending",
    )  # fmt: skip
    found = table("out")
    assert len(found) == 2 * len(SIZES)
    for (method, name), numbers in found.items():
        image = load_image(photographs / name)
        hole = open_mask_set("centre").hole(0, image.shape[:2])
        folder = (
            "mean_fill"
            if method == "mean fill"
            else next(p.name for p in Path("saved").iterdir() if "tiny" in p.name)
        )
        for metric, value in expected(picture(Path("saved") / folder / name), image, hole).items():
            assert numbers[metric] == pytest.approx(value, abs=1e-5, rel=3e-6), (method, name, metric)


def test_measure_takes_pictures_of_a_size_that_is_padded():
    rng = np.random.default_rng(0)
    image = data.astronaut()[:71, :45]
    completed = np.clip(image + rng.integers(-30, 31, image.shape), 0, 255).astype(np.uint8)
    hole = rng.uniform(size=image.shape[:2]) < 0.2
    found = measure(np.stack([completed, image]), np.stack([image, image]), np.stack([hole, ~hole]))
    for metric, value in expected(completed, image, hole).items():
        assert found[metric][0] == pytest.approx(value, abs=1e-5, rel=2e-6), metric
    assert found["psnr"][1] == np.inf
    assert found["ssim"][1] == pytest.approx(1.0, abs=1e-6)


def test_a_picture_that_was_changed_outside_its_hole_is_told(here, evaluated):
    saved = evaluated[0] / "saved"
    shutil.copytree(saved / "Telea", "theirs")
    (changed,) = Path("theirs").glob("p0.png")
    pixels = picture(changed).copy()
    pixels[0, :5] ^= 255
    Image.fromarray(pixels).save(changed)
    _, said = run(
        "theirs", "--data", f"folder:{saved / 'originals'}", "--masks", f"folder:{saved / 'masks'}",
        "--report", "out", "--baselines", "",
    )  # fmt: skip
    assert (
        "theirs: pictures that differ from their image outside the hole, too: 1 (in 5 pixels on average)" in said
    )


class Halves:
    """Stands in for FID's network: numbers that know the picture's colours."""

    description = "a stand-in"

    def features(self, image):
        spread = np.random.default_rng(0).normal(size=(3, fid.FEATURES)) / 255
        return (image.mean(axis=(1, 2)) @ spread).astype(np.float32)


def test_fid_goes_on_too_and_is_that_of_all_features(here, photographs, monkeypatch):
    monkeypatch.setattr(evaluate.fid, "load", lambda path: Halves())
    monkeypatch.setattr(fid, "FEATURES", 24)
    arguments = ("telea", "--data", f"folder:{photographs}", "--size", 24, "--fid", "x.pth", "--batch-size", 2)
    arguments += ("--baselines", "", "--no-blending")
    run(*arguments, "--report", "whole", "--save", "saved")
    run(*arguments, "--report", "parts")
    journal = Path("parts/journal.jsonl")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:6]))
    stdout, stderr = run(*arguments, "--report", "parts")
    (found,) = rows("parts").values()
    assert found["fid"] == pytest.approx(rows("whole")["Telea"]["fid"], rel=1e-9)
    statistics = []
    for folder in ("Telea", "originals"):
        pictures = np.stack([picture(path) for path in sorted((Path("saved") / folder).rglob("*.png"))])
        statistics.append(fid.Statistics(24))
        statistics[-1].add(Halves().features(pictures))
    assert found["fid"] == pytest.approx(fid.frechet_distance(*statistics), rel=1e-6)
    assert "FID: not computed" not in stdout
    assert "biased" in stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--data", "folder:{photos}"], "nowhere"),
        (["telea", "--data", "folder:missing"], "no such folder"),
        (["telea", "--data", "photos"], "give samples, folder:PATH or tfds:NAME as --data"),
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
            "holds no completed picture of below/p2.png, below/p5.png, broken.jpg and 6 more",
        ),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_written(here, photographs, arguments, said):
    code = 3 if "nowhere" in arguments or "--lpips" in arguments else 2
    message = run(*(one.format(photos=photographs) for one in arguments), "--report", "out", code=code)[1]
    assert said in message
    assert len(message.splitlines()) == 1
    assert not Path("out").exists()


def test_a_completed_picture_of_another_size_is_one_line(here, photographs):
    _, said = run(photographs, "--data", f"folder:{photographs}", "--size", 24, "--report", "out", code=2)
    assert "give --size as they were completed" in said


def test_images_that_cannot_be_measured_at_all(here):
    Path("photos").mkdir()
    Path("photos/a.jpg").write_bytes(b"no image")
    _, said = run("telea", "--data", "folder:photos", "--report", "out", code=2)
    assert "none of the 1 images can be measured: a.jpg" in said


def test_files_that_were_replaced_are_not_taken_for_measured(here, evaluated):
    saved = evaluated[0] / "saved"
    for folder in ("originals", "masks", "Telea"):
        shutil.copytree(saved / folder, folder)
    arguments = (
        "Telea",
        "--data",
        "folder:originals",
        "--masks",
        "folder:masks",
        "--baselines",
        "",
        "--report",
        "out",
    )
    run(*arguments)
    for folder, said in (("Telea", "rows"), ("originals", "image files"), ("masks", "mask files")):
        before = Path(folder, "p0.png").read_bytes()
        shutil.copy(saved / folder / "p1.png", f"{folder}/p0.png")
        _, message = run(*arguments, code=2)
        assert f"is of another evaluation ({said}" in message
        Path(folder, "p0.png").write_bytes(before)
        run(*arguments, "--restart")


def test_names_that_differ_in_their_suffix_are_kept_apart(here, photographs):
    Path("photos").mkdir()
    Image.open(photographs / "p0.png").save("photos/a.jpg")
    shutil.copy(photographs / "p1.png", "photos/a.png")
    shutil.copy(photographs / "p3.png", "photos/b.png")
    run("mean", "--data", "folder:photos", "--size", 24, "--baselines", "", "--save", "saved", "--report", "out")
    assert sorted(path.name for path in Path("saved/mean_fill").iterdir()) == ["a.jpg.png", "a.png.png", "b.png"]
    _, said = run("saved/mean_fill", "--data", "folder:photos", "--size", 24, "--report", "other", code=2)
    assert "several images are called a but for their suffixes" in said
    run(
        "saved/mean_fill", "--data", "folder:saved/originals", "--masks", "folder:saved/masks", "--report", "other"
    )


def test_names_that_are_not_printable_keep_their_masks_and_their_completions(here, photographs):
    for folder in ("photos", "masks", "theirs"):
        Path(folder).mkdir()
    for index, name in enumerate(("a\u202fb", "c\udcffd", "e\u0301")):
        shutil.copy(photographs / "p0.png", f"photos/{name}.png")
        shutil.copy(photographs / "p0.png", f"theirs/{name}_completed.png")
        hole = np.zeros((40, 52), np.uint8)
        hole[:10, : 10 + index] = 255
        Image.fromarray(hole).save(f"masks/{name}_mask.png")
    run("theirs", "--data", "folder:photos", "--masks", "folder:masks", "--baselines", "", "--report", "out")
    ratios = {name: numbers["hole_ratio"] for (_, name), numbers in table("out").items()}
    assert sorted(ratios.values()) == pytest.approx([10 * width / 2080 for width in (10, 11, 12)])
    assert "a\\u202fb.png" in ratios
    assert "by the images' names" in Path("out/table.md").read_text().replace("\\", "")


def test_what_a_network_was_trained_on_is_told(here, photographs, finished_run):
    shutil.copytree(finished_run, "run")
    notes = []
    for data_, split in ((f"folder:{photographs}", "all"), ("samples", "train"), ("samples", "validation")):
        options = ("--split", split, "--baselines", "", "--no-blending", "--count", 2, "--report", split)
        run("run", "--data", data_, *options)
        notes.append(" ".join(json.loads(Path(split, "evaluation.json").read_text())["notes"]))
    assert ["was trained on images of samples" in note for note in notes] == [False, True, False]


def test_a_damaged_image_that_was_mended_is_measured_too(here, photographs):
    Path("photos").mkdir()
    for name in ("p0", "p1", "p3"):
        shutil.copy(photographs / f"{name}.png", "photos")
    content = Path("photos/p1.png").read_bytes()
    arguments = ("mean", "--data", "folder:photos", "--size", 24, "--baselines", "", "--report", "out")
    Path("photos/p1.png").write_bytes(content[:50])
    run(*arguments)
    assert len(table("out")) == 4
    Path("photos/p1.png").write_bytes(content)
    _, said = run(*arguments, code=2)  # Another file than the one that was seen before.
    assert "image files" in said
    run(*arguments, "--restart")
    assert len(table("out")) == 6


def test_a_mask_that_cannot_be_read_ends_it(here, photographs):
    Path("masks").mkdir()
    Image.fromarray(np.full((24, 24), 255, np.uint8)).save("masks/0.png")
    Path("masks/1.png").write_bytes(b"no mask")
    _, said = run(
        "mean", "--data", f"folder:{photographs}", "--size", 24, "--masks", "folder:masks", "--report", "o", code=2
    )
    assert "masks/1.png" in said


def test_what_is_saved_does_not_lie_among_other_files(here, photographs):
    Path("saved").mkdir()
    Path("saved/mine.txt").write_text("precious")
    _, said = run(
        "mean", "--data", f"folder:{photographs}", "--size", 24, "--save", "saved", "--report", "out", code=2
    )
    assert "is not empty" in said


def test_finished_pictures_have_no_speed_and_both_names_are_too_many(here, photographs):
    run(photographs, "--data", f"folder:{photographs / 'below'}", "--report", "out", "--baselines", "", code=2)
    run(photographs / "below", "--data", f"folder:{photographs / 'below'}", "--report", "out", "--baselines", "")
    (found,) = rows("out").values()
    assert found["images_per_second"] is None
    shutil.copytree(photographs / "below", "both")
    shutil.copy("both/p2.png", "both/p2_completed.jpg")
    _, said = run("both", "--data", f"folder:{photographs / 'below'}", "--report", "other", code=2)
    assert "p2.png and p2_completed.jpg are both p2.png" in said


def test_a_tfds_data_set(here, tmp_path_factory, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.utils import gcs_utils

    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", True)  # It would ask the network for known data sets.
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
    arguments = ("mean", "--data", "tfds:some_photos", "--tfds-dir", "prepared", "--size", 24, "--baselines", "")
    run(*arguments, "--report", "held_out")
    assert {name for _, name in table("held_out")} == {"some_photos/validation[0]", "some_photos/validation[1]"}
    run(*arguments, "--split", "train", "--report", "train", "--save", "saved")
    assert len(table("train")) == 6
    assert len(list(Path("saved/originals").rglob("*.png"))) == 3
    _, said = run(*arguments, "--split", "test", "--report", "test", code=2)
    assert "choose from train, validation" in said


def test_the_samples_and_a_count(here):
    run("mean", "--data", "samples", "--size", 32, "--count", 1, "--baselines", "", "--report", "out")
    protocol = json.loads(Path("out/evaluation.json").read_text())["protocol"]
    assert "samples, validation: 1 of 2 images" in protocol["Images"]
