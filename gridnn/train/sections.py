"""What a configuration may say: one frozen model per section, one line of meaning per key.

    [model]  which network          [plan]  how it is cut over processes
    [data]   what it learns from    [run]   where the record goes, how often rank 0 speaks
    [train]  how it learns          [comm]  how the ranks talk
    [checkpoint]  when it is saved  [compute]  what computes on a rank

Types are strict (a whole number is no text, text is no number) and unknown keys are refused.  The docstring
under a key is its description: error messages show it.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridnn.train.data.augment import Augment
from gridnn.train.data.dataset import DataOptions

# What the default job needs; other optimizers want another scale of lr.
DEFAULT_EPOCHS = 20
DEFAULT_LR = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "lars": 1.0}


def _as_tuple(value: object) -> object:
    """TOML has lists only; frozen models hold tuples, and a lone number is a list of one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | float) else value


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_as_tuple)]
Pair = Annotated[tuple[Count, Count], BeforeValidator(_as_tuple)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)]
Simple = bool | int | float | str


class Section(BaseModel):
    """Base of all sections: frozen, strict, closed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # the house words, not pydantic's, own the prefix
        protected_namespaces=(),
    )


S = TypeVar("S", bound=Section)


def _refuse(section: S, rules: list[tuple[bool, str]]) -> S:
    """Return the section, or raise one error with a line for every rule that is broken."""
    broken = [sentence for is_broken, sentence in rules if is_broken]
    if broken:
        raise ValueError("\n".join(broken))
    return section


class ModelSection(Section):
    """Which network."""

    name: Name = "digits-cnn"
    """A network of the zoo."""
    options: dict[str, Simple | list[Simple]] = {}
    """Arguments of the zoo's function, such as classes or width."""


class DataSection(Section):
    """What the network learns from."""

    name: Name = "digits"
    """digits (shipped), synthetic, or, with a path, a name of your own."""
    path: Name | None = None
    """File or folder; its format is recognised by looking."""
    target: Literal["class", "pixels", "image"] | None = None
    """What is learned: a class per sample or per pixel, or an image; left out, what the files hold."""
    classes: Count | None = None
    """Number of classes; left out, the largest training label + 1."""
    layout: Name | None = None
    """Dims of an input array in stored order, such as "NHWC"."""
    channels: Literal[1, 3] | None = None
    """1 or 3 for pictures; left out, as the first file has it."""
    size: Pair | None = None
    """Height and width to which pictures are scaled and cropped."""
    tile: Pair | None = None
    """Height and width of the pieces of large photographs."""
    tiles: Count | None = None
    """Random pieces a photograph; left out, all of a regular grid."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share held out for the test where the data have no test part of their own."""
    split_seed: Whole = 0
    """Seed of the part held out, and of synthetic data."""
    input_shape: Counts | None = None
    """Shape of one synthetic sample: channels, then space."""
    count: Count = 1000
    """Synthetic training samples."""
    test_count: Count = 200
    """Synthetic test samples."""
    target_channels: Count = 1
    """Channels of synthetic target images."""
    pad: Whole = 0
    """Zeros around training images before a random crop back to size."""
    flip: bool = False
    """Mirror half of the training images left to right."""
    scale: Positive | None = None
    """Factor on stored values; left out, the one that brings bytes to [0, 1]."""
    mean: Numbers = (0.0,)
    """Subtracted after scaling: one number, or one per channel."""
    std: Positives = (1.0,)
    """Divided by after subtracting: one number, or one per channel."""
    noise: NonNegative = 0.0
    """Standard deviation of the noise added to inputs."""

    @property
    def source(self) -> str:
        """What `open_data` is asked for: the path, the shipped set, or the synthetic set by its shape."""
        if self.path is not None:
            return self.path
        if self.name != "synthetic" or self.input_shape is None:
            return self.name
        return (
            "synthetic:" + "x".join(map(str, self.input_shape)) + (f":{self.classes}" if self.classes else "")
        )

    @property
    def options(self) -> DataOptions:
        """How the data are read."""
        return DataOptions(**{field.name: getattr(self, field.name) for field in fields(DataOptions)})

    @property
    def augment(self) -> Augment:
        """What is done to training samples."""
        return Augment(**{field.name: getattr(self, field.name) for field in fields(Augment)})

    @model_validator(mode="before")
    @classmethod
    def _name_follows_path(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("path"), str):
            return {"name": Path(given["path"]).name or given["path"]} | given
        return given

    @model_validator(mode="after")
    def _agree(self) -> DataSection:
        synthetic = self.name.split(":")[0] == "synthetic"
        return _refuse(
            self,
            [
                (
                    self.path is not None and (synthetic or self.name == "digits"),
                    f'data.path is given, but data.name = "{self.name}" reads none of yours; leave one out',
                ),
                (
                    self.name == "synthetic" and self.input_shape is None,
                    'data.name = "synthetic" needs data.input_shape, such as [3, 32, 32]',
                ),
                (
                    self.name != "synthetic" and self.input_shape is not None,
                    'data.input_shape is only for data.name = "synthetic"; leave it out',
                ),
            ],
        )


class TrainSection(Section):
    """How the network learns."""

    batch: Count = 64
    """Samples of one update, over all ranks."""
    epochs: Count | None = None
    """Passes over the training data; give this or steps."""
    steps: Count | None = None
    """Updates in the run; give this or epochs."""
    seed: Whole = 0
    """Seed of weights, data order, dropout and augmentation."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of weights and activations."""
    optimizer: Literal["sgd", "adam", "adamw", "lars"] = "sgd"
    """Rule of the update."""
    lr: Positive = DEFAULT_LR["sgd"]
    """Learning rate after warm-up; left out, a usual one for the optimizer."""
    momentum: Fraction = 0.9
    """Momentum of sgd and lars."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd."""
    weight_decay: NonNegative = 0.0
    """Coefficient of weight decay; biases and norm parameters are spared."""
    beta1: Fraction = 0.9
    """Decay of the first moment in adam and adamw."""
    beta2: Fraction = 0.999
    """Decay of the second moment in adam and adamw."""
    eps: Positive = 1e-8
    """Small term that keeps a denominator from zero in adam, adamw and lars."""
    trust: Positive = 1e-3
    """Trust coefficient of lars."""
    warmup_steps: Whole = 0
    """Updates over which the learning rate rises to lr."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Course of the learning rate after warm-up."""
    milestones: Positives = ()
    """Epochs at which schedule "step" multiplies the learning rate by gamma, rising."""
    gamma: Positive = 0.1
    """Factor of schedule "step"."""
    clip_norm: Positive | None = None
    """Largest global norm of the gradient; left out, no clipping."""
    accumulate: Count = 1
    """Passes a batch is split into: less memory, the same update."""
    label_smoothing: Fraction = 0.0
    """Share of the target probability spread over all classes."""
    cut_optimizer: bool = False
    """Cut the optimizer's state over n: less memory, the same result."""
    bucket_bytes: Count = 4 * 2**20
    """Gradients are summed in messages of about this size."""
    eval: bool = True
    """Evaluate on the test data."""
    eval_every_epochs: Count = 1
    """Epochs between evaluations."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Settle what depends on other keys, so that a saved configuration shows what was run."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if given.get("epochs") is None and given.get("steps") is None:
            given["epochs"] = DEFAULT_EPOCHS
        optimizer = given.get("optimizer")
        if isinstance(optimizer, str) and optimizer in DEFAULT_LR:
            given.setdefault("lr", DEFAULT_LR[optimizer])
        return given

    @model_validator(mode="after")
    def _agree(self) -> TrainSection:
        return _refuse(
            self,
            [
                (
                    self.epochs is not None and self.steps is not None,
                    "train.epochs and train.steps are both given; keep the one that should end the run",
                ),
                (
                    self.nesterov and (self.optimizer != "sgd" or self.momentum == 0.0),
                    'train.nesterov needs train.optimizer = "sgd" and train.momentum above 0',
                ),
                (
                    self.schedule == "step" and not self.milestones,
                    'train.schedule = "step" needs train.milestones, such as [30, 60, 90] (in epochs)',
                ),
                (
                    self.schedule != "step" and bool(self.milestones),
                    f'train.milestones is given, but train.schedule is "{self.schedule}"; set it to "step"',
                ),
                (
                    self.batch < self.accumulate,
                    f"train.batch = {self.batch} cannot be split into train.accumulate = {self.accumulate} "
                    "passes: each needs a sample at least",
                ),
                (
                    any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)),
                    f"train.milestones must rise; got {list(self.milestones)}",
                ),
            ],
        )


class PlanSection(Section):
    """How the network is cut over processes."""

    spec: Name = "auto"
    """"auto", one grid for every layer such as "n2 k2", one for each stage such as "n2 | k2", or a plan file."""
    stages: Names = ()
    """First layers of the stages of a pipeline; left out, stages that take about the same time."""
    schedule: Literal["auto", "sequential", "gpipe", "1f1b", "delayed", "local"] = "auto"
    """Order in which stages work; "auto" is exact: the planner's choice, or "1f1b" for given stages."""
    form: Literal["replay", "stash"] = "replay"
    """How schedule "delayed" goes back: forward again with new weights, or with all that was kept."""
    heads: Literal["none", "linear"] = "none"
    """Losses of the stages for schedule "local": "linear" puts pooling and a linear layer behind each."""
    machine: Name = "laptop"
    """What plans are priced on: a machine of gridnn, or the path of a .toml file (see gridnn calibrate)."""


class RunSection(Section):
    """Where the record goes and how often rank 0 speaks."""

    dir: Name | None = None
    """Folder of the record; left out, a new one under runs."""
    log_every_s: NonNegative = 5.0
    """Seconds between lines when the output is no terminal."""
    pictures: Whole = 0
    """Pictures of test samples (input, prediction, target) written at the end, for image networks."""
    trace_steps: Whole = 4
    """Steps of which every rank notes what it did when, for gridnn analyze; 0 notes none."""


class CheckpointSection(Section):
    """When a run is saved; it is at its end, and before it has to leave."""

    every_steps: Whole = 0
    """Steps between checkpoints; 0: none for this reason."""
    every_s: NonNegative = 600.0
    """Seconds between checkpoints; 0: none for this reason."""
    keep: Whole = 3
    """Newest checkpoints that stay; 0 writes none."""
    best: bool = True
    """Save after an evaluation better than all before, and keep that one too."""
    behind: bool = True
    """Write while training goes on: needs memory for one more copy of a rank's share."""
    leave_s: NonNegative = 60.0
    """Seconds before the time limit of a batch job at which the run saves and leaves."""


class CommSection(Section):
    """How the ranks talk."""

    overlap: bool = True
    """Compute while messages are under way; where the machine file says that it pays, a thread keeps them moving."""
    transport: Literal["auto", "staged", "cuda-mpi"] = "auto"
    """Messages of a GPU: copied to the host, or handed to MPI there; "auto" does that where MPI says it takes them."""
    timeout_s: Positive = 300.0
    """A rank silent for this long ends the run."""


class ComputeSection(Section):
    """What computes on a rank."""

    device: Literal["auto", "cpu", "gpu"] = "cpu"
    """"gpu" computes on the rank's CUDA device through CuPy; "auto" does where there is one."""
    engine: Literal["auto", "native", "numpy"] = "auto"
    """"auto" takes all there is: own kernels and oneDNN; "native" own kernels only; "numpy" the slow reference."""
    onednn: Name | None = None
    """Path of libdnnl.so.3 or of the prefix it is installed under; left out, it is searched for."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Factors of products: "bfloat16" where faster (choice "fixed": in all), on a GPU "tf32"; sums stay float32."""
    choice: Literal["measured", "fixed"] = "measured"
    """How a kernel is chosen for a layer: by a short measurement that is kept, or by rule, the same in every run."""
    memory_limit: Positive | None = None
    """What a rank may take of its GPU's memory: a share up to 1, bytes above; left out, all there is."""
    threads: Whole = 0
    """Threads of a rank; 0 takes OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or the rank's share of the cores."""

    @model_validator(mode="after")
    def _agree(self) -> ComputeSection:
        limit, device = self.memory_limit, f'compute.device = "{self.device}"'
        return _refuse(self, [
            (self.precision == "bfloat16" and self.engine != "auto",
             f'compute.precision = "bfloat16" is oneDNN\'s; compute.engine = "{self.engine}" leaves it out: take auto'),
            (self.precision == "tf32" and self.device == "cpu",
             f'compute.precision = "tf32" is of a GPU\'s tensor cores, but {device}; take compute.device = "gpu", or '
             'compute.precision = "float32"'),
            (self.precision == "bfloat16" and self.device == "gpu",
             f'compute.precision = "bfloat16" is not there yet for {device}; take "tf32" or "float32", or the cpu'),
            (limit is not None and 1 < limit < 1 << 20,  # GB or per cent were meant
             f"compute.memory_limit = {limit} is neither a share up to 1 nor bytes of a run; give, say, 0.5 or 20e9"),
        ])  # fmt: skip


class Config(Section):
    """The whole configuration."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    plan: PlanSection = PlanSection()
    run: RunSection = RunSection()
    checkpoint: CheckpointSection = CheckpointSection()
    comm: CommSection = CommSection()
    compute: ComputeSection = ComputeSection()

    @model_validator(mode="after")
    def _agree(self) -> Config:
        return _refuse(
            self,
            [
                (
                    self.data.target == "image" and self.train.label_smoothing > 0.0,
                    'train.label_smoothing is for classes, but data.target is "image"; leave it out',
                ),
                (
                    self.compute.precision != "float32" and self.train.dtype != "float32",
                    f'compute.precision = "{self.compute.precision}" needs train.dtype = "float32", not '
                    f'"{self.train.dtype}"; change one of them',
                ),
            ],
        )
