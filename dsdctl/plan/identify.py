"""The identities of a trajectory and its levels, from how a network is trained and pruned."""

from dsdctl.keys import (
    NO_NOISE,
    DistillationIdentity,
    ImagesIdentity,
    LevelIdentity,
    NoiseIdentity,
    PruningIdentity,
    RetrainIdentity,
    TrajectoryIdentity,
    TrajectoryTeacher,
)
from dsdctl.plan.rows import TrainingSetup
from dsdctl.spec.dataset import LabelNoise
from dsdctl.spec.training import Schedule, Training


def trajectory_identity(
    setup: TrainingSetup, seed: int, teacher: TrajectoryTeacher | None
) -> TrajectoryIdentity:
    """The identity of the trajectory of a training set-up with a seed and a teacher."""
    return TrajectoryIdentity(
        images=_images_identity(setup),
        noise=_noise_identity(setup.images.noise, seed),
        network=setup.network,
        training=_training_identity(setup.training),
        seed=seed,
        pruning=_pruning_identity(setup),
        sparsities=setup.pruning.sparsities,
        distillation=teacher,
    )


def _noise_identity(noise: LabelNoise, seed: int) -> NoiseIdentity:
    if noise.kind == "human":
        return NoiseIdentity(kind="human", rate=0.0, seed=0, labels=noise.labels)
    if not noise.rate:
        return NO_NOISE
    drawn = seed if noise.seed == "per-trajectory" else noise.seed
    return NoiseIdentity(kind=noise.kind, rate=noise.rate, seed=drawn)


def _training_identity(training: Training) -> Training:
    """How levels are trained, in canonical form: a constant rate is a schedule without steps."""
    if training.schedule.kind != "constant":
        return training
    return training.model_copy(update={"schedule": Schedule(warmup=training.schedule.warmup)})


def _pruning_identity(setup: TrainingSetup) -> PruningIdentity:
    """How any level is pruned and retrained, without options that have no effect."""
    pruning, retrain = setup.pruning, setup.pruning.retraining
    fraction, _ = pruning.share(1)
    return PruningIdentity(
        criterion=pruning.criterion,
        scope=None if pruning.criterion == "none" else pruning.scope,
        fraction=fraction,
        sparsity=None,
        sample=pruning.gradient_sample,
        iterations=pruning.iterations or 1,
        ignore=setup.ignored_layers,
        retrain=RetrainIdentity(
            mode=retrain.mode,
            lr_scale=retrain.lr_scale or 1.0,
            iterations=setup.rewind_iterations,
        ),
    )


def _images_identity(setup: TrainingSetup) -> ImagesIdentity:
    dataset, facts = setup.images.dataset, setup.images.facts
    return ImagesIdentity(
        dataset=f"{dataset.name}-{facts.version}",
        content=facts.content,
        test_folder=facts.test_folder,
        test_fraction=dataset.test.fraction if dataset.test else None,
        validation=dataset.validation,
        split_seed=dataset.split_seed,
        size=facts.size,
        normalize=dataset.normalize or facts.normalize,
        augment=setup.augment,
    )


def level_identity_of(
    identity: TrajectoryIdentity,
    level: int,
    pruning: PruningIdentity | None,
    parent: str | None,
    distillation: DistillationIdentity | None,
) -> LevelIdentity:
    """The identity of a level of a trajectory, whose parent is the key of the level before."""
    return LevelIdentity(
        images=identity.images,
        noise=identity.noise,
        network=identity.network,
        training=identity.training,
        seed=identity.seed,
        level=level,
        pruning=pruning,
        parent=parent,
        distillation=distillation,
    )
