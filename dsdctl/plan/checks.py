"""Checks across a spec's sections: network and images, training and batches, pruning and weights.

Each check raises InputError that names the line of the spec. Torch is not imported.
"""

from dsdctl.errors import InputError
from dsdctl.plan.own import Who
from dsdctl.plan.rows import TrainingSetup
from dsdctl.spec.catalog import Facts
from dsdctl.spec.document import Document, KeyPath
from dsdctl.spec.experiment import StopRule
from dsdctl.spec.network import CodeNetwork, Network
from dsdctl.spec.problems import nearest
from dsdctl.spec.pruning import Pruning
from dsdctl.spec.shapes import FIRST, LAST, ignored_layers, remaining_weights

SHOWN_LAYERS = 25
"""Messages list all layers of networks with up to this many, else the first few and the last."""


def check_network(document: Document, who: Who, network: Network, facts: Facts) -> None:
    """The network must accept the images' size; a user's own network was tried on them already."""
    if isinstance(network, CodeNetwork):
        return
    problem = network.images_problem(facts.height, facts.width, facts.smallest_side)
    if problem is not None:
        key, reason = problem
        if facts.warning:
            reason = f"{reason}; {facts.warning}"
        raise InputError(document.problem((who, key), reason))


def check_batches(document: Document, setup: TrainingSetup) -> None:
    """No batch may consist of a single image if the network has BatchNorm."""
    images = setup.images.sizes.train
    if images % setup.training.batch_size == 1 and setup.has_batchnorm:
        reason = (
            f"leaves a last batch of one of {images} training images, which BatchNorm cannot "
            "normalize (allowed: another size)"
        )
        raise InputError(document.problem(("training", "batch_size"), reason))


def check_ignored(document: Document, who: Who, setup: TrainingSetup) -> None:
    """Ignored layers must exist, and some layer must be left to prune."""
    names, pruning = list(setup.layer_weights), setup.pruning
    for index, name in enumerate(pruning.ignore):
        if name not in (FIRST, LAST, *names):
            known = names if len(names) <= SHOWN_LAYERS else [*names[:3], "...", names[-1]]
            reason = (
                f"{name} is not a layer of the {who}{nearest(name, names)} "
                f"(allowed: {', '.join((FIRST, LAST, *known))})"
            )
            raise InputError(document.problem(("pruning", "ignore", index), reason))
    if len(ignored_layers(names, pruning.ignore)) == len(names):
        reason = f"leaves no layer of the {who} to prune (allowed: `pruning: none`)"
        raise InputError(document.problem(("pruning", "ignore"), reason))


def check_rounds(document: Document, who: Who, setup: TrainingSetup) -> None:
    """Every round must prune something and leave at least one weight per class."""
    pruning, classes = setup.pruning, setup.images.facts.classes
    if pruning.criterion == "none":
        return
    layers = dict(setup.layer_weights)
    ignored = [layers.pop(name) for name in ignored_layers(layers, pruning.ignore)]
    pruned = remaining_weights(list(layers.values()), pruning)
    counts = [sum(ignored) + count for count in pruned]
    for level in range(1, len(counts)):
        if counts[level] == counts[level - 1]:
            reason, better = f"rounding removes nothing at level {level} of the {who}", "higher"
        elif counts[level] < classes:
            reason = (
                f"level {level} of the {who} keeps {counts[level]} weights, fewer than the "
                f"{classes} classes"
            )
            better = "lower"
        else:
            continue
        key: KeyPath = ("levels" if pruning.until_sparsity is None else "until_sparsity",)
        allowed = f"at most {level - 1} levels"
        if pruning.sparsities is not None:
            key, allowed = ("sparsities", level - 1), f"a {better} sparsity"
        reason = f"{reason} (allowed: {allowed} for {counts[0]} weights)"
        raise InputError(document.problem(("pruning", *key), reason))


def check_criterion(document: Document, who: Who, setup: TrainingSetup) -> None:
    """SynFlow needs a network without LayerNorm, which subtracts the mean of the positive flow."""
    network = setup.network
    has_flow = isinstance(network, CodeNetwork) or not network.LAYERNORM
    if setup.pruning.criterion == "synflow" and not has_flow:
        reason = (
            f"synflow sees no flow through the LayerNorms of the {who} "
            "(allowed: magnitude, random, gradient, snip)"
        )
        raise InputError(document.problem(("pruning", "criterion"), reason))


def check_entropy(document: Document, stop: StopRule | None, setup: TrainingSetup) -> None:
    """A rule that waits for the entropy to fall needs a network with ReLU or GELU modules."""
    inspection = None if setup.own is None else setup.own.inspection
    waits = stop is not None and stop.after == "entropy-drop"
    if waits and inspection is not None and not inspection.activations:
        reason = "waits for the entropy to fall, but no ReLU or GELU module of the student is seen"
        raise InputError(document.problem(("stop", "after"), reason))


def check_sample(document: Document, pruning: Pruning, images: int) -> None:
    """The gradient's sample must not be larger than the number of training `images`."""
    sample = pruning.gradient_sample
    if sample is not None and sample > images:
        reason = f"is {sample} (allowed: at most the {images} training images)"
        raise InputError(document.problem(("pruning", "sample"), reason))


def check_rewinding(
    document: Document, who: Who, pruning: Pruning, epochs: int, steps_per_epoch: int
) -> None:
    """The epoch or batch to rewind to must lie within level 0's training."""
    retrain = pruning.retraining
    for key, unit, value, count in (
        ("epoch", "epochs", retrain.epoch, epochs),
        ("iteration", "batches", retrain.iteration, epochs * steps_per_epoch),
    ):
        if value is not None and value >= count:
            reason = f"is {value}, but level 0 of the {who} takes {count} {unit}"
            allowed = f"(allowed: 0 to {count - 1})"
            raise InputError(document.problem(("pruning", "retrain", key), f"{reason} {allowed}"))
