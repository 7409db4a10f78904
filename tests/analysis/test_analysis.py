"""The analyses of the attention network: against brute force, numpy, and the paper's figures."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces

from fastcam import analysis, cli
from fastcam.analysis import paper
from fastcam.analysis.correlation import correlation, strongest
from fastcam.data import CelebA
from fastcam.demos.attention import STAGES, AttentionDemoConfig, _robustness, attention_demo, clear
from fastcam.evaluation import evaluate
from fastcam.faces import ATTRIBUTES as CELEBA_NAMES
from fastcam.models import AttentionNetwork, Checkpoint, load_checkpoint, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import TrainConfig

OPTIONS = {"channels": 8, "stride": 4, "dilations": [1]}
PAIRS = [(1.0, 0.0), (0.0, 0.0), (2.0, 0.5), (0.5, 1.0)]
SIGMAS = [0.0, 0.2, 0.5]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


def _subject(**options: int) -> Checkpoint:
    """An attention network whose masks act: large weights, so that (n, β) changes what it says."""
    torch.manual_seed(0)
    network = AttentionNetwork(3, **OPTIONS, **options)
    with torch.no_grad():
        network.masks_conv.weight.mul_(3)
        network.binary.weight.normal_()
    return Checkpoint(
        network.eval(), "attention", list(ATTRIBUTES), Preprocessing(32),
        model_options={**OPTIONS, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("network") / "model.pt", _subject())


@pytest.fixture
def subject(model: Path) -> Checkpoint:
    return analysis.load_attention(model)


def _network(checkpoint: Checkpoint) -> AttentionNetwork:
    assert isinstance(checkpoint.model, AttentionNetwork)
    return checkpoint.model


def _images(checkpoint: Checkpoint, faces: Any) -> torch.Tensor:
    pixels = torch.stack([faces[i]["image"].as_subclass(torch.Tensor) for i in range(len(faces))])
    return checkpoint.preprocessing.normalize(pixels)


# --- the paper's figures --------------------------------------------------------------------------


def test_quoted_figures_average_to_what_the_paper_prints() -> None:
    assert len(paper.TABLE_4) == 40
    # Synthetic faces have sunglasses, which CelebA does not mark, and no beauty.
    assert set(CELEBA_NAMES) - {"Sunglasses"} == set(paper.TABLE_4) - {"Attractive"}
    for column in ("mt_rbm_pca", "lnets_anet", "facetracer"):
        printed = getattr(paper.TABLE_4_AVERAGE, column)
        assert paper.column_mean(column) == pytest.approx(printed, abs=0.5)
    # The paper's own column does not average to its printed 92.05; Tables 1 and 4 agree.
    assert paper.column_mean("ours") == pytest.approx(90.17325)
    assert paper.TABLE_4_AVERAGE.ours == paper.TABLE_1["full"] == 92.05
    assert set(paper.TABLE_1) == set(analysis.VARIANTS)
    for partners in paper.TABLE_2.values():
        strengths = [r for _, r in partners]
        assert strengths == sorted(strengths, reverse=True)
        assert all(0 <= c < 128 for c, _ in partners)
    for target, partners in paper.TABLE_3.items():
        assert {target, *partners} <= set(paper.TABLE_4)


# --- attributes -----------------------------------------------------------------------------------


def test_attributes_agree_with_evaluate(subject: Checkpoint, data: Path) -> None:
    scores = analysis.attributes(subject, analysis.open_faces(subject, data))
    assert scores.images == 12
    for i, name in enumerate(ATTRIBUTES):
        other = evaluate(subject, data, attribute=name)
        assert scores.accuracy[i] == pytest.approx(other["all"].accuracy)
        assert scores.balanced[i] == pytest.approx(other.balanced_accuracy)
        assert scores.precision[i] == pytest.approx(other.average_precision)
        assert scores.positives[i] == pytest.approx(other["a"].images / 12)
        assert scores.majority[i] == pytest.approx(
            max(other["a"].images / 12, other["not a"].images / 12)
        )
    assert scores.means()["accuracy"] == pytest.approx(other.mean_accuracy)


def test_tables_stay_legible_where_they_do_not_fit(subject: Checkpoint, data: Path) -> None:
    faces = analysis.open_faces(subject, data)
    faces.labels[:, 1] = 0
    table = analysis.attributes(subject, faces).tables()[0]
    for width in (60, 200):
        console = Console(width=width, file=io.StringIO())
        console.print(table.to_rich())
        text = console.file.getvalue()
        assert "…" not in text
        assert all(f" {name} " in text for name in ATTRIBUTES)
    found = analysis.correlations(subject, faces, attributes=["Lips"])
    assert "nan" not in str(found.tables()[1])


def test_an_attribute_of_one_class_has_no_balanced_accuracy(
    subject: Checkpoint, data: Path
) -> None:
    faces = analysis.open_faces(subject, data)
    faces.labels[:, 1] = 0
    scores = analysis.attributes(subject, faces)
    assert np.isnan([scores.balanced[1], scores.precision[1]]).all()
    assert np.isfinite(list(scores.means().values())).all()
    row = scores.tables()[0].rows[1]
    assert row[0] == "Eyes"
    assert (row[4], row[5]) == ("–", "–")


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 6])
def test_importance_equals_brute_force(hidden: int, data: Path) -> None:
    subject = _subject(classifier_hidden=hidden)
    network = _network(subject)
    images = _images(subject, analysis.open_faces(subject, data, limit=3))
    with torch.no_grad():
        found = analysis.mask_changes(network, images, [2, 0])
        before = network(images)
        for t, attribute in enumerate([2, 0]):
            for channel in range(network.channels):

                def without(masks: torch.Tensor, k: int = attribute, c: int = channel) -> Any:
                    masks = masks.clone()
                    masks[:, k, c] = 0
                    return masks

                with network.transform(without):
                    change = before - network(images)
                torch.testing.assert_close(found[:, t, channel], change[:, attribute])
                others = [k for k in range(3) if k != attribute]
                assert change[:, others].abs().max() < 1e-5
        with network.transform(torch.zeros_like):
            all_off = (before - network(images))[:, [2, 0]]
    added_up = torch.isclose(found.sum(-1), all_off, atol=1e-5).all()
    assert added_up == (hidden == 0)  # only linear classifiers' changes add up
    faces = analysis.open_faces(subject, data)
    for position, name in enumerate(["Dark", "Lips"]):
        rows = (faces.labels[:3, ATTRIBUTES.index(name)] > 0.5).nonzero().flatten()
        wanted = all_off[rows, position].mean()
        some = analysis.open_faces(subject, data, limit=3)
        (part,) = analysis.top_masks(subject, some, [name], batch_size=1).parts
        assert part.everything == pytest.approx(float(wanted), abs=1e-5)


def test_top_masks_are_those_of_the_highest_importance(subject: Checkpoint, data: Path) -> None:
    network, faces = _network(subject), analysis.open_faces(subject, data)
    rows = (faces.labels[:, 0] > 0.5).nonzero().flatten()
    with torch.no_grad():
        images = _images(subject, faces)[rows]
        changes = analysis.mask_changes(network, images, [0])[:, 0]
        masks = network.masks(images, [0])[:, 0]
    (part,) = analysis.top_masks(subject, faces, ["Lips"], shown=2).parts
    best = changes.mean(0).abs().topk(3).indices.tolist()
    assert part.channels == [best, best]
    assert part.images == len(rows)
    torch.testing.assert_close(part.maps[1], masks[1, best])
    torch.testing.assert_close(part.map_changes[1], changes[1, best])
    assert part.mask_mean == pytest.approx(float(masks.mean()), abs=1e-6)
    (split,) = analysis.top_masks(subject, faces, ["Lips"], shown=2, batch_size=2).parts
    torch.testing.assert_close(split.changes, part.changes)
    torch.testing.assert_close(split.maps, part.maps)
    (each,) = analysis.top_masks(subject, faces, ["Lips"], shown=2, per_image=True).parts
    assert each.channels == changes[:2].abs().topk(3).indices.tolist()


def test_masks_name_what_is_wrong(subject: Checkpoint, data: Path) -> None:
    faces = analysis.open_faces(subject, data)
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        analysis.top_masks(subject, faces, ["Nose"])
    with pytest.raises(ValueError, match="top: expected at most 8"):
        analysis.top_masks(subject, faces, ["Lips"], top=9)
    for name in ("shown", "images", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1"):
            analysis.top_masks(subject, faces, ["Lips"], **{name: 0})
    faces.labels[:, 2] = 0
    with pytest.raises(ValueError, match="none of the 12 images has Dark"):
        analysis.top_masks(subject, faces, ["Dark"])


# --- correlation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["attended", "masks", "features"])
def test_correlations_equal_numpy(of: str, subject: Checkpoint, data: Path) -> None:
    network, faces = _network(subject), analysis.open_faces(subject, data)
    images = _images(subject, faces)
    with torch.no_grad():
        masks, features, logits = network.masks(images), network.features(images), network(images)
    values = {
        "attended": ((1 + masks) * features[:, None]).mean((1, 3, 4)),
        "masks": masks.mean((1, 3, 4)),
        "features": features.mean((2, 3)),
    }[of]
    found = analysis.correlations(subject, faces, of=of, batch_size=5)
    np.testing.assert_allclose(found.channels, np.corrcoef(values.T.double()), atol=1e-4)
    np.testing.assert_allclose(found.attributes, np.corrcoef(logits.T.double()), atol=1e-4)
    np.testing.assert_allclose(found.labels, np.corrcoef(faces.labels.T.double()), atol=1e-6)
    assert not network.features._forward_hooks
    assert not network.binary._forward_pre_hooks


def test_strongest_partners_and_constant_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    values = np.stack([x, -x + 0.01 * rng.normal(size=40), rng.normal(size=40), np.ones(40)], 1)
    matrix = correlation(values)
    assert np.isnan(matrix[3, :3]).all()
    partners = strongest(matrix, 0)
    assert [i for i, _ in partners] == [1, 2]
    assert partners[0][1] < -0.99
    with pytest.raises(ValueError, match="at least 2 images"):
        correlation(values[:1])


# --- robustness -----------------------------------------------------------------------------------


def test_one_forward_pass_for_each_noise_level(subject: Checkpoint, data: Path) -> None:
    faces, calls = analysis.open_faces(subject, data), []
    _network(subject).features.register_forward_hook(lambda *_: calls.append(1))
    analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, batch_size=12)
    assert len(calls) == len(SIGMAS)


def test_sequences_equal_single_runs(subject: Checkpoint, data: Path) -> None:
    faces = analysis.open_faces(subject, data)
    together = analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, seed=3)
    assert together.right.shape == (3, 4, 12)
    for j, pair in enumerate(PAIRS):
        for s, sigma in enumerate(SIGMAS):
            alone = analysis.noise_accuracy(subject, faces, [pair], [sigma], seed=3, batch_size=5)
            assert torch.equal(alone.right[0, 0], together.right[s, j])
    assert len({tuple(row) for row in together.right[1].tolist()}) > 1, "no (n, β) changes anything"
    other = analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, seed=4)
    assert torch.equal(other.right[0], together.right[0])  # without noise the seed does nothing
    assert not torch.equal(other.right, together.right)


def test_without_noise_and_transformation_it_is_plain_accuracy(
    subject: Checkpoint, data: Path
) -> None:
    faces = analysis.open_faces(subject, data)
    found = analysis.noise_accuracy(subject, faces, [(1, 0)], [0])
    plain = analysis.attributes(subject, faces).means()
    assert float(found.accuracy) == pytest.approx(plain["accuracy"])
    assert found.majority == pytest.approx(plain["majority"])


def test_noise_is_added_before_normalisation_and_clipped() -> None:
    images, noise = torch.full((1, 3, 2, 2), 0.9), torch.ones(1, 3, 2, 2)
    assert torch.equal(analysis.add_noise(images, 0.5, noise), torch.ones(1, 3, 2, 2))
    low = analysis.add_noise(images, 0.5, -noise)
    torch.testing.assert_close(low, torch.full((1, 3, 2, 2), 0.4))
    assert torch.equal(images, torch.full((1, 3, 2, 2), 0.9))


def _accuracies(right: torch.Tensor) -> analysis.NoiseAccuracy:
    return analysis.NoiseAccuracy([0.0, 0.5], PAIRS[:3], right, 0.5)


def test_the_search_picks_on_validation_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    valid = torch.rand(2, 3, 50, generator=generator)
    valid[:, 2] += 0.5
    test = torch.rand(2, 3, 80, generator=generator)
    found = analysis.search(_accuracies(valid), _accuracies(test))
    assert found.pair == PAIRS[2]
    test[:, 1] += 5
    again = analysis.search(_accuracies(valid), _accuracies(test))
    assert again.pair == PAIRS[2]
    assert again.accuracy == found.accuracy
    expected = (test[:, 2] - test[:, 0]).double()
    assert found.mean_difference == pytest.approx(float(expected.mean()))
    for (low, high), difference in zip(found.intervals, expected.mean(-1), strict=True):
        assert low < float(difference) < high
    equal = analysis.search(_accuracies(torch.ones(2, 3, 4)), _accuracies(test))
    assert equal.pair == (1.0, 0.0)
    assert equal.mean_difference == 0.0
    valid[:, 1] += 2
    assert analysis.search(_accuracies(valid), _accuracies(test)).pair == (0.0, 0.0)
    masked = analysis.search(_accuracies(valid), _accuracies(test), flat=False)
    assert masked == dataclasses.replace(found, valid=masked.valid)
    assert list(masked.valid) == [PAIRS[0], PAIRS[2]]
    assert "among n > 0" in masked.table().title
    with pytest.raises(ValueError, match="pairs and noise levels of valid"):
        analysis.search(_accuracies(valid), analysis.NoiseAccuracy([0.0], PAIRS[:3], test[:1], 0.5))


def test_robustness_puts_the_trained_point_first(subject: Checkpoint, data: Path) -> None:
    test, valid = (analysis.open_faces(subject, data, s) for s in ("test", "valid"))
    found = analysis.robustness(subject, test, valid, pairs=[(2, 0.5), (1, 0)], sigmas=[0, 0.3])
    assert found.test.pairs == [(1.0, 0.0), (2.0, 0.5)]
    assert found.search is not None
    alone = analysis.noise_accuracy(subject, valid, found.test.pairs, [0, 0.3], seed=1)
    assert list(found.search.valid.values()) == pytest.approx(alone.accuracy.mean(0).tolist())
    assert found.search.pair == alone.pairs[int(alone.accuracy.mean(0).argmax())]
    assert analysis.robustness(subject, test, pairs=[(2, 0)], sigmas=[0]).search is None
    assert found.masked is None
    assert len(found.tables()) == 2


def test_where_no_mask_takes_part_the_search_goes_on_among_masks(
    subject: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation images that n = 0 judges best."""
    test, valid = (analysis.open_faces(subject, data, s) for s in ("test", "valid"))
    kept = analysis.robustness.__globals__["noise_accuracy"]

    def flat_is_best(*arguments: Any, what: str, **options: Any) -> analysis.NoiseAccuracy:
        found = kept(*arguments, what=what, **options)
        if "validation" in what:
            found.right[:, found.pairs.index((0.0, 0.0))] += 1
        return found

    monkeypatch.setitem(analysis.robustness.__globals__, "noise_accuracy", flat_is_best)
    found = analysis.robustness(subject, test, valid, pairs=[(0, 0), (2, 0.5)], sigmas=[0.3])
    assert found.search is not None and found.masked is not None
    assert found.search.pair == (0.0, 0.0)
    assert found.masked.pair in ((1.0, 0.0), (2.0, 0.5))
    assert found.masked.pair == max(found.masked.valid, key=found.masked.valid.__getitem__)
    assert [t.title.partition(",")[0] for t in found.tables()[1:]] == [
        f"n = {n:g}" for n, _ in (found.search.pair, found.masked.pair)
    ]
    stored = found.to_json()
    assert stored["search_with_masks"]["pair"] == list(found.masked.pair)


@pytest.mark.parametrize(
    ("pairs", "sigmas", "message"),
    [
        ([(-1, 0)], [0], "pairs: expected n and β"),
        ([], [0], "pairs: expected at least one"),
        ([(1, 0)], [-0.1], "sigmas: expected"),
        ([(1, 0)], [], "sigmas: expected"),
        ([(1, float("nan"))], [0], "pairs: expected n and β"),
    ],
)
def test_noise_names_what_is_wrong(
    pairs: Any, sigmas: Any, message: str, subject: Checkpoint, data: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        analysis.noise_accuracy(subject, analysis.open_faces(subject, data), pairs, sigmas)


# --- curves ---------------------------------------------------------------------------------------


def test_curves_are_those_of_the_equations() -> None:
    curves = analysis.tone_curves([(1, 0), (0, 0), (2, 0.5)])
    linear, flat, steep = curves.values([0.0, 0.25, 0.5, 1.0])
    assert linear == pytest.approx([0, 0.25, 0.5, 1])
    assert flat == pytest.approx([0.5] * 4)
    assert steep == pytest.approx([-0.5, 1.5 * 0.125 - 0.5, 0.25, 1])
    with pytest.raises(ValueError, match="at least one"):
        analysis.tone_curves([])


# --- ablation -------------------------------------------------------------------------------------


def test_ablation_trains_four_variants_and_keeps_them(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(data), model="attention", model_options=OPTIONS, size=32, epochs=1, patience=0,
        batch_size=12, limit_train=12, device="cpu", workers=1,
    )  # fmt: skip
    notes: list[tuple[int, int, str]] = []
    found = analysis.ablation(
        config,
        tmp_path,
        [0, 1],
        progress=lambda _, done, total, note="": notes.append((done, total, note)),
    )
    assert [done for done, _, _ in notes] == sorted(done for done, _, _ in notes)
    assert {(done, total) for done, total, _ in notes} == {(i, 8) for i in range(9)}
    assert any(note.startswith("both, seed 1: epoch 1 of 1, 1/1 loss") for *_, note in notes)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/model.pt")}
    assert {p.parent.name for p in kept} == {f"{n}-{s}" for n in analysis.VARIANTS for s in (0, 1)}
    parts = {
        name: (network.multilabel is not None, network.reconstructor is not None)
        for name in analysis.VARIANTS
        for network in [_network(load_checkpoint(tmp_path / f"{name}-1" / "model.pt"))]
    }
    assert parts == {
        "full": (True, True), "no_reconstructor": (True, False),
        "no_multilabel": (False, True), "neither": (False, False),
    }  # fmt: skip
    subject = analysis.load_attention(tmp_path / "neither-1" / "model.pt")
    means = analysis.attributes(subject, analysis.open_faces(subject, data)).means()
    assert found.scores["neither"]["precision"][1] == pytest.approx(means["precision"])
    assert analysis.ablation(config, tmp_path, [0, 1]) == found
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    row = found.tables()[0].rows[0]
    mean = 50 * sum(found.scores["full"]["accuracy"])
    assert row[1].startswith(f"{mean:.2f} ± ")
    assert row[-1] == "92.05"
    with pytest.raises(ValueError, match="seeds"):
        analysis.ablation(config, tmp_path, [0, 0])
    with pytest.raises(ValueError, match="model='attention'"):
        analysis.ablation(TrainConfig(data=str(data)), tmp_path)


# --- command line and files -----------------------------------------------------------------------

VERBS = {
    "attributes": ["MODEL", "DATA"],
    "masks": ["MODEL", "DATA", "-a", "Lips", "-a", "Dark", "--images", 4],
    "correlation": ["MODEL", "DATA", "-a", "Eyes", "-c", 7, "--of", "masks"],
    "curves": ["--pair", "1,0", "--pair", "4,0.5"],
    "robustness": ["MODEL", "DATA", "--pair", "4,1", "--sigmas", "0,0.4"],
    "ablation": ["DATA", "--seeds", "0", "--size", 32, "--epochs", 1, "--limit-train", 8],
}


def _run(*arguments: object, **places: object) -> int:
    return cli.main([str(places.get(str(a), a)) for a in arguments])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_writes_figure_and_table(
    verb: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "new" / verb
    device = [] if verb == "curves" else ["--device", "cpu", "--workers", 1]
    assert _run("attention", verb, *VERBS[verb], *device, "-o", prefix, DATA=data, MODEL=model) == 0
    assert str(prefix) in capsys.readouterr().out.replace("\n", "")
    assert Image.open(f"{prefix}.png").size[0] > 400
    saved = analysis.load(prefix)
    assert saved is not None
    text = Path(f"{prefix}.md").read_text()
    assert all(table.to_markdown() in text for table in saved.tables)
    assert json.loads(Path(f"{prefix}.json").read_text())["values"] == saved.values
    if verb == "masks":
        assert saved.settings["attributes"] == ["Lips", "Dark"]
        assert saved.settings["images"] == 4
    if verb == "correlation":
        assert (saved.settings["attributes"], saved.settings["channels"]) == (["Eyes"], [7])
    assert analysis.load(tmp_path / "nothing") is None


@pytest.mark.parametrize("verb", [*VERBS, "demo"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("attention", verb, "--help") == 0
    text = capsys.readouterr().out
    assert f"fastcam attention {verb}" in text
    assert "Example" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attributes", "PLAIN", "DATA"], "'tiny', which is no attention network"),
        (["robustness", "PLAIN", "DATA"], "'tiny', which is no attention network"),
        (["attributes", "MODEL", "DATA", "--limit", "0"], "limit: expected at least 1"),
        (["masks", "MODEL", "DATA", "-a", "Nose"], "unknown attribute 'Nose'"),
        (["correlation", "MODEL", "DATA", "-c", "8"], "channels: expected ids from 0 to 7"),
        (["correlation", "MODEL", "DATA", "--of", "x"], "of: expected one of"),
        (["curves", "--pair", "4"], "--pair: expected n,β, got '4'"),
        (["curves", "--pair", "4,b"], "--pair: expected numbers"),
        (["robustness", "MODEL", "DATA", "--sigmas", "0,x"], "--sigmas: expected numbers"),
        (["robustness", "MODEL", "DATA", "--sigmas=-1"], "sigmas: expected at least one"),
        (["ablation", "DATA", "--seeds", "a"], "--seeds: expected numbers"),
        (["masks", "MODEL", "DATA"], "Missing option '--attribute'"),
        (["curves", "-o", "DATA/list_attr_celeba.txt/curves"], "list_attr_celeba.txt"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str],
    message: str,
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = Checkpoint(TinyNet(3), MODEL, list(ATTRIBUTES), Preprocessing(32))
    path = save_checkpoint(tmp_path / "plain.pt", plain)
    arguments = [a.replace("DATA/", f"{data}/") for a in arguments]
    assert _run("attention", *arguments, DATA=data, MODEL=model, PLAIN=path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_advice_on_landmarks_that_no_analysis_uses(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_faces(tmp_path / "faces", landmarks=False)
    out = ["-o", tmp_path / "attributes", "--device", "cpu", "--workers", 1]
    assert _run("attention", "attributes", *VERBS["attributes"], *out, DATA=data, MODEL=model) == 0
    assert capsys.readouterr().err == ""
    with pytest.warns(UserWarning, match="fastcam landmarks"):
        CelebA(data, "test")


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("attention") == 2
    output = capsys.readouterr()
    assert "robustness" in output.out + output.err
    assert "error" not in output.err


# --- demo -----------------------------------------------------------------------------------------

DEMO = AttentionDemoConfig(
    images=40, size=32, epochs=1, batch_size=14, model_options=OPTIONS, pairs=((2.0, 0.5),),
    sigmas=(0.0, 0.5), ablation_images=8, ablation_epochs=1, ablation_seeds=1,
)  # fmt: skip


def test_the_demo_writes_one_page_and_keeps_its_stages(tmp_path: Path) -> None:
    said: list[str] = []
    result = attention_demo(tmp_path, DEMO, workers=1, say=said.append)
    assert list(result.analyses) == list(STAGES)
    page = result.page.read_text()
    assert page.count("data:image/png;base64,") == len(STAGES)
    for saved in result.analyses.values():
        assert all(table.to_html() in page for table in saved.tables)
    assert "Validation images choose n = " in page
    assert [f"analysing: {s}" in "".join(said) for s in STAGES] == [True] * len(STAGES)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
    said.clear()
    again = attention_demo(tmp_path, DEMO, workers=1, say=said.append)
    assert again.analyses == result.analyses
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert "analysing" not in "".join(said)
    with pytest.raises(ValueError, match="other"):
        attention_demo(tmp_path, dataclasses.replace(DEMO, epochs=2), say=said.append)
    (tmp_path / "notes.txt").write_text("mine")
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("n", "noisy", "sentences"),
    [(2.0, 0.85, []), (0.5, 0.85, ["n below 1 draws"]), (2.0, 0.7, ["At σ = 0.5 the trained"])],
)
def test_the_page_says_what_a_pick_means(
    n: float, noisy: float, sentences: list[str], tmp_path: Path
) -> None:
    values = {
        "sigmas": [0.0, 0.5],
        "majority": 0.8,
        "pairs": [{"n": 1.0, "beta": 0.0, "accuracy": [0.9, noisy]}],
        "search": {"pair": [n, 0.0], "mean_difference": 0.01, "mean_interval": [0.005, 0.02]},
    }
    text = " ".join(_robustness(analysis.Saved(tmp_path, [], {}, values)))
    assert f"Validation images choose n = {n:g}, β = 0" in text
    assert "changes accuracy by +1.00 points (95% interval +0.50 to +2.00" in text
    possible = ("n below 1 draws", "At σ = 0.5 the trained")
    assert [s for s in possible if s in text] == sentences
