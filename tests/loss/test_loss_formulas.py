"""The losses of papers: each paper's formula written out in NumPy, MONAI's losses, and what holds of all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_cases import KINDS, LOSSES, REGIONS, THREE, THREE_IGNORE, example, loss_of
from scipy import ndimage

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.cl_dice import ClDice
from segflow.loss.distance_maps import DistanceMaps
from segflow.loss.focal import Focal
from segflow.loss.generalized_dice import GeneralizedDice
from segflow.loss.soft_skeleton import soft_skeleton
from segflow.loss.surface_losses import Boundary, GeneralizedSurface, Hausdorff
from segflow.loss.tversky import Tversky

BATCH = [pytest.param(True, id="batch"), pytest.param(False, id="samples")]
ALL = [pytest.param(name, kind, id=f"{name}-{kind}") for name in LOSSES for kind in KINDS]


class Arrays:
    """Probabilities p, one-hot truth g and distances phi of every output as (K, …), for one sample or the batch."""

    def __init__(self, labels: Labels, logits: torch.Tensor, target: torch.Tensor) -> None:
        x, y = logits.numpy(), target.numpy()[:, 0]
        self.valid = np.ones(y.shape, bool) if labels.ignore_label is None else y != labels.ignore_label
        if labels.has_regions:
            self.p = 1 / (1 + np.exp(-x))
            self.g = np.stack([np.isin(y, region) for region in labels.regions], 1).astype(float)
            self.fg = slice(None)
        else:
            e = np.exp(x - x.max(1, keepdims=True))
            self.p = e / e.sum(1, keepdims=True)
            self.g = np.stack([y == value for value in labels.all_labels], 1).astype(float)
            self.fg = slice(1, None)
        self.phi = np.stack(
            [[distance(one > 0, ok) for one in g[self.fg]] for g, ok in zip(self.g, self.valid, strict=True)]
        )
        self.ok = self.valid[:, None].astype(float)

    def groups(self, batch_dice: bool) -> list[tuple[np.ndarray, ...]]:
        """(p, g, phi, ok) of the whole batch as one long sample, or of each; (K, voxels) each."""
        arrays = [np.broadcast_to(a, (*self.p.shape[:1], a.shape[1], *self.p.shape[2:])) for a in self._four()]
        flat = [a.reshape(*a.shape[:2], -1) for a in arrays]
        if batch_dice:
            return [tuple(np.concatenate(list(a), axis=-1) for a in flat)]
        return list(zip(*flat, strict=True))

    def _four(self) -> tuple[np.ndarray, ...]:
        return self.p, self.g, self.phi, self.ok


def distance(inside: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Kervadec's level set: the distance to the object outside, minus the distance to the rest within."""
    inside, outside = inside & valid, ~inside & valid
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape)
    to_object, to_rest = (ndimage.distance_transform_edt(~mask) for mask in (inside, outside))
    return np.where(outside, to_object, 0) - np.where(inside, to_rest, 0)


def focal(a: Arrays, fg: slice, ok: np.ndarray, gamma: float, alpha: float | None) -> float:
    truth = a.g > 0
    if fg == slice(None):  # each region is a decision between it and the rest
        p_true = np.where(truth, a.p, 1 - a.p)
        weight = 1.0 if alpha is None else np.where(truth, alpha, 1 - alpha)
        return float((-weight * (1 - p_true) ** gamma * np.log(p_true) * ok).sum() / (ok.sum() * a.p.shape[1]))
    p_true = np.where(ok[:, 0] > 0, (a.p * a.g).sum(1), 1)
    weight = 1.0 if alpha is None else np.where(truth[:, 0], 1 - alpha, alpha)
    return float((-weight * (1 - p_true) ** gamma * np.log(p_true)).sum() / ok.sum())


def tversky(a: Arrays, batch_dice: bool, alpha: float, beta: float, gamma: float) -> float:
    values = []
    for p, g, _, ok in a.groups(batch_dice):
        p, g = p[a.fg] * ok, g[a.fg] * ok
        tp, fp, fn = (p * g).sum(1), (p * (1 - g)).sum(1), ((1 - p) * g).sum(1)
        values.append((1 - (tp + 1e-5) / (tp + alpha * fp + beta * fn + 1e-5)) ** (1 / gamma))
    return float(np.mean(values))


def generalized_dice(a: Arrays, batch_dice: bool) -> float:
    values = []
    for p, g, _, ok in a.groups(batch_dice):
        p, g = p * ok, g * ok
        w = 1 / g.sum(1) ** 2
        values.append(1 - 2 * (w * (p * g).sum(1)).sum() / (w * (p + g).sum(1)).sum())
    return float(np.mean(values))


def surface(a: Arrays, batch_dice: bool) -> float:
    values = []
    for p, g, phi, _ in a.groups(batch_dice):
        agreed = ((phi * (1 - p[a.fg] - g[a.fg])) ** 2).sum(1)
        values.append(1 - agreed / (phi**2).sum(1))
    return float(np.mean(values))


@pytest.mark.parametrize("batch_dice", BATCH)
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_papers_formulas(kind: str, batch_dice: bool) -> None:
    labels = KINDS[kind]
    logits, target = example(labels)
    a = Arrays(labels, logits, target)
    fg = slice(None) if labels.has_regions else slice(1, None)
    mean_over = a.ok.sum() * a.phi.shape[1]
    expected = {
        Focal(labels): focal(a, fg, a.ok, 2.0, None),
        Focal(labels, gamma=1.5, alpha=0.25): focal(a, fg, a.ok, 1.5, 0.25),
        Tversky(labels, batch_dice): tversky(a, batch_dice, 0.3, 0.7, 1.0),
        Tversky(labels, batch_dice, alpha=0.4, beta=0.6, gamma=4 / 3): tversky(a, batch_dice, 0.4, 0.6, 4 / 3),
        GeneralizedDice(labels, batch_dice, smooth=0): generalized_dice(a, batch_dice),
        Boundary(labels, batch_dice): (a.phi * a.p[:, fg] * a.ok).sum() / mean_over,
        Hausdorff(labels, batch_dice): (a.phi**2 * (a.p - a.g)[:, fg] ** 2 * a.ok).sum() / mean_over,
        Hausdorff(labels, batch_dice, exponent=1.5): (
            (np.abs(a.phi) ** 1.5 * (a.p - a.g)[:, fg] ** 2 * a.ok).sum() / mean_over
        ),
        GeneralizedSurface(labels, batch_dice): surface(a, batch_dice),
    }
    for loss, value in expected.items():
        assert loss_of(loss, labels, logits, target).item() == pytest.approx(value, rel=1e-6), loss


def test_two_dimensional_skeletons_follow_the_papers_algorithm() -> None:
    """Algorithm 1 of Shit et al. with SciPy's filters; cldice = 2 T S / (T + S)."""
    labels = Labels.from_json({"background": 0, "vessel": 1})
    logits, target = example(labels, 9, 11)
    p, g = logits.softmax(1)[:, 1].numpy(), (target[:, 0] == 1).numpy().astype(float)

    def opened(image: np.ndarray) -> np.ndarray:
        return ndimage.grey_dilation(eroded(image), size=(3, 3), mode="nearest")

    def eroded(image: np.ndarray) -> np.ndarray:
        cross = ndimage.generate_binary_structure(2, 1)
        return ndimage.grey_erosion(image, footprint=cross, mode="nearest")

    def thinned(image: np.ndarray) -> np.ndarray:
        skeleton = np.maximum(image - opened(image), 0)
        for _ in range(3):
            image = eroded(image)
            ridge = np.maximum(image - opened(image), 0)
            skeleton = skeleton + np.maximum(ridge - skeleton * ridge, 0)
        return skeleton

    scores = []
    for one, true in zip(p, g, strict=True):
        sp, sg = thinned(one), thinned(true)
        precision, sensitivity = ((sp * true).sum() + 1) / (sp.sum() + 1), ((sg * one).sum() + 1) / (sg.sum() + 1)
        scores.append(2 * precision * sensitivity / (precision + sensitivity))
    loss = ClDice(labels, False, iterations=3)(logits, target).item()
    assert loss == pytest.approx(1 - np.mean(scores), rel=1e-6)


@pytest.mark.parametrize("batch_dice", BATCH)
def test_values_are_those_of_monai(batch_dice: bool) -> None:
    """Where MONAI differs, it is by a constant: its focal loss is divided by the number of classes."""
    monai = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    logits, target = example(THREE, dtype=torch.float32)
    hot = torch.cat([target == value for value in THREE.all_labels], 1).float()
    soft = {"softmax": True, "batch": batch_dice}
    pairs = [
        (Focal(THREE), 3 * monai.FocalLoss(use_softmax=True, gamma=2.0)(logits, hot)),
        (Focal(THREE, alpha=0.75), 3 * monai.FocalLoss(use_softmax=True, gamma=2.0, alpha=0.75)(logits, hot)),
        (Focal(REGIONS), monai.FocalLoss(gamma=2.0)(logits[:, :2], torch.cat([target > 0, target == 2], 1).float())),
        (
            Tversky(THREE, batch_dice),
            monai.TverskyLoss(include_background=False, alpha=0.3, beta=0.7, **soft)(logits, hot),
        ),
        (
            GeneralizedDice(THREE, batch_dice, smooth=0),
            monai.GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0, **soft)(logits, hot),
        ),
    ]
    for loss, value in pairs:
        outputs = logits[:, : 2 if loss_is_of_regions(loss) else 3]
        assert loss(outputs, target).item() == pytest.approx(value.item(), rel=1e-5), loss


def loss_is_of_regions(loss: torch.nn.Module) -> bool:
    return getattr(loss, "has_regions", False)


def test_clDice_of_one_label_is_monais() -> None:
    """MONAI sums over labels before the ratios, and adds 1 below the harmonic mean unless ``smooth`` is 0."""
    monai = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    labels = Labels.from_json({"background": 0, "vessel": 1})
    logits, target = example(labels, 8, 9, 7, dtype=torch.float32)
    hot = torch.cat([target == 0, target == 1], 1).float()
    theirs = monai.SoftclDiceLoss(iter_=3, smooth=1.0, include_background=False, softmax=True)
    theirs.smooth = 0.0
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    values = [ClDice(labels, False, iterations=3)(leaves[0], target), theirs(leaves[1], hot)]
    gradients = [torch.autograd.grad(v, leaf)[0] for v, leaf in zip(values, leaves, strict=True)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_the_one_sided_hausdorff_loss_is_monais_where_nothing_is_predicted() -> None:
    """MONAI's has both sides; its distances to the prediction are 0 where no probability reaches one half."""
    monai = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    labels = Labels.from_json({"background": 0, "a": 1})
    logits, target = example(labels, dtype=torch.float32)
    logits[:, 0] = logits[:, 1].abs() + 0.1 + logits[:, 0].abs()
    hot = torch.cat([target == 0, target == 1], 1).float()
    theirs = monai.HausdorffDTLoss(include_background=False, softmax=True, alpha=2.0)(logits, hot)
    assert loss_of(Hausdorff(labels, True), labels, logits, target).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_gradients_are_the_derivatives(name: str, kind: str) -> None:
    labels = KINDS[kind]
    logits, target = example(labels, 4, 3, 3)
    loss = LOSSES[name](labels, True)
    assert torch.autograd.gradcheck(lambda x: loss_of(loss, labels, x, target), logits.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_values_and_gradients_are_numbers_whatever_a_patch_holds(name: str, kind: str) -> None:
    labels = KINDS[kind]
    nothing = torch.zeros(2, 1, 6, 6, 6, dtype=torch.int16)
    one_voxel, one_sample, edge = nothing.clone(), nothing.clone(), nothing.clone()
    one_voxel[0, 0, 2, 3, 3] = 2
    one_sample[1, 0, 1:4] = 1
    edge[:, 0, 0, 0, 0] = 1
    patches = [nothing, nothing + 1, nothing + 2, one_voxel, one_sample, edge]
    if labels.ignore_label is not None:
        patches.append(nothing + labels.ignore_label)
        patches.append(torch.where(nothing + torch.arange(6) > 2, labels.ignore_label, one_sample).to(torch.int16))
    for batch_dice in (True, False):
        loss = LOSSES[name](labels, batch_dice)
        for target in patches:
            for scale in (0.0, 200.0):  # a guess, and certainty
                logits = scale * example(labels, 6, 6, 6, dtype=torch.float32)[0]
                logits.requires_grad_()
                value = loss_of(loss, labels, logits, target)
                assert value.isfinite()
                assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_a_right_prediction_has_the_lowest_loss(name: str, kind: str) -> None:
    labels = KINDS[kind]
    target = torch.zeros(1, 1, 10, 10, 10, dtype=torch.int16)
    target[..., 2:8, 2:8, 2:8] = 1
    target[..., 4:6, 4:6, 2:8] = 2
    groups = labels.regions if labels.has_regions else [(value,) for value in labels.all_labels]
    right = torch.stack([sum((target[:, 0] == v).float() for v in group) for group in groups], 1) * 40 - 20
    values = [
        loss_of(LOSSES[name](labels, True), labels, logits, target).item()
        for logits in (right, right.roll(1, -1), right.roll(3, -1), -right)
    ]
    assert values == sorted(values)
    assert values[0] < values[1] - 1e-4
    if name != "boundary":  # which is negative
        assert values[0] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_mirroring_and_the_order_of_labels_do_not_matter(name: str, kind: str) -> None:
    labels = KINDS[kind]
    logits, target = example(labels)
    loss = LOSSES[name](labels, False)
    value = loss_of(loss, labels, logits, target).item()
    mirrored = loss_of(loss, labels, logits.flip(2, 4), target.flip(2, 4)).item()
    assert mirrored == pytest.approx(value, rel=1e-6)
    if not labels.has_regions:
        other = torch.where(target == 1, 2, torch.where(target == 2, 1, target)).to(torch.int16)
        assert loss_of(loss, labels, logits[:, [0, 2, 1]], other).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["labels_ignore", "regions_ignore"])
def test_ignored_voxels_have_no_gradient_and_no_influence(name: str, kind: str) -> None:
    labels = KINDS[kind]
    logits, target = example(labels)
    ignored = (target == labels.ignore_label).expand_as(logits)
    loss = LOSSES[name](labels, True)
    leaf = logits.clone().requires_grad_()
    value = loss_of(loss, labels, leaf, target)
    assert torch.autograd.grad(value, leaf)[0][ignored].abs().max() == 0
    changed = torch.where(ignored, -7.0 * logits, logits)
    assert loss_of(loss, labels, changed, target).item() == pytest.approx(value.item(), rel=1e-9)


def test_half_precision_is_computed_in_float32() -> None:
    logits, target = example(THREE_IGNORE)
    for make in LOSSES.values():
        loss = make(THREE_IGNORE, True)
        half = logits.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss_of(loss, THREE_IGNORE, half, target)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss_of(loss, THREE_IGNORE, half.float(), target).item(), rel=1e-6)


def test_a_tube_keeps_its_centre_line() -> None:
    tube = torch.zeros(1, 1, 9, 9, 15)
    tube[..., 3:6, 3:6, 1:14] = 1
    skeleton = soft_skeleton(tube, 3)
    assert skeleton[0, 0, 4, 4, 3:12].min() == 1
    assert skeleton[0, 0, 3, 3].max() == 0
    assert soft_skeleton(tube[..., 4, :, :], 3)[0, 0, 4, 3:12].min() == 1


@pytest.mark.parametrize("spacing", [None, (3.0, 0.7, 1.2)])
def test_distance_maps_are_scipys(spacing: tuple[float, ...] | None) -> None:
    generator = np.random.default_rng(0)
    for shape in [(1, 5, 4), (6, 5, 7), (9, 9)]:
        own = None if spacing is None else spacing[: len(shape)]
        label = generator.choice(4, size=(2, 1, *shape), p=[0.6, 0.2, 0.1, 0.1]).astype(np.int16)
        maps = DistanceMaps(THREE_IGNORE, own)(torch.from_numpy(label))
        assert maps.dtype == torch.float32
        for sample, (one,) in zip(maps.numpy(), label, strict=True):
            for value, found in zip((1, 2), sample, strict=True):
                inside, outside = one == value, (one != value) & (one != 3)
                to_object = ndimage.distance_transform_edt(~inside, sampling=own)
                to_rest = ndimage.distance_transform_edt(~outside, sampling=own)
                wanted = np.where(outside, to_object, 0) - np.where(inside, to_rest, 0)
                np.testing.assert_allclose(found, wanted if inside.any() else 0 * wanted, rtol=1e-5, atol=1e-5)


def test_maps_of_a_large_object_within_a_box_are_those_of_the_whole() -> None:
    label = torch.zeros(1, 1, 12, 13, 14, dtype=torch.int16)
    label[..., 4:, 3:9, 5:11] = 1
    label[..., 6, 6, 8] = 0
    inside = label[0, 0].numpy() == 1
    wanted = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    np.testing.assert_allclose(DistanceMaps(THREE)(label)[0, 0].numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Focal(THREE, gamma=-1), "gamma"),
        (lambda: Focal(THREE, gamma=math.nan), "gamma"),
        (lambda: Focal(THREE, alpha=1.0), "alpha"),
        (lambda: Tversky(THREE, True, alpha=math.nan), "Tversky"),
        (lambda: Tversky(THREE, True, alpha=0, beta=0), "Tversky"),
        (lambda: Tversky(THREE, True, gamma=0), "Tversky"),
        (lambda: GeneralizedDice(THREE, True, smooth=-1), "smooth"),
        (lambda: GeneralizedDice(THREE, True, smooth=math.inf), "smooth"),
        (lambda: ClDice(THREE, True, iterations=0), "iteration"),
        (lambda: ClDice(THREE, True, smooth=0), "smooth"),
        (lambda: ClDice(THREE, True, smooth=math.nan), "smooth"),
        (lambda: Boundary(THREE, True, distance_unit="cm"), "voxels or mm"),
        (lambda: Hausdorff(THREE, True, exponent=0), "exponent"),
        (lambda: Hausdorff(THREE, True, exponent=math.inf), "exponent"),
        (lambda: loss_of(Boundary(THREE, True), REGIONS, *example(THREE)[:1], example(REGIONS)[1][:1]), "do not fit"),
        (lambda: Boundary(THREE, True)(*example(THREE), torch.zeros(2, 1, 5, 6, 4)), "distance maps"),
    ],
)
def test_numbers_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(SegflowError, match=said):
        make()  # type: ignore[operator]
