"""What a configuration may say: one frozen model per section, one line of meaning per key.

    [model]  which network          [plan]  how it is cut over processes
    [data]   what it learns from    [run]   where the record goes, how often rank 0 speaks
    [train]  how it learns          [comm]  how the ranks talk
    [checkpoint]  when it is saved  [compute]  what computes on a rank

What a section is made of is in section.py; [data] has a file of its own.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gridnn.train.data_section import DataSection
from gridnn.train.section import (
    Count,
    Fraction,
    Name,
    Names,
    NonNegative,
    Positive,
    Positives,
    Section,
    Simple,
    Whole,
    refuse,
)

# What the default job needs; other optimizers want another scale of lr.
DEFAULT_EPOCHS = 20
DEFAULT_LR = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "lars": 1.0}


class ModelSection(Section):
    """Which network."""

    name: Name = "digits-cnn"
    """A network of the zoo."""
    options: dict[str, Simple | list[Simple]] = Field(default_factory=dict)
    """Arguments of the zoo's function, such as classes or width."""


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
    late: Literal["plain", "spike", "predict"] = "spike"
    """Momentum of sgd where gradients are late: "spike" makes up at once for what they have missed; so does "predict",
    where stashed weights are those that momentum will have led to by then, too."""
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
        return refuse(
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
                    self.late == "predict" and self.cut_optimizer,
                    'train.late = "predict" needs whole velocities on every rank, and train.cut_optimizer cuts them; '
                    'take train.late = "spike", or leave the state whole',
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
    transport: Literal["auto", "nccl", "staged", "cuda-mpi"] = "auto"
    """Messages of a GPU: by NCCL, by the host, or by an MPI that takes them; "auto": NCCL where each rank has a GPU."""
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
    precision: Literal["float32", "tf32", "bf16", "bfloat16"] = "float32"
    """Products: CPU "bfloat16" (where faster); GPU "tf32", or "bf16", in which activations are stored, too."""
    choice: Literal["measured", "fixed"] = "measured"
    """How a kernel is chosen for a layer: by a short measurement that is kept, or by rule, the same in every run."""
    conv: Literal["auto", "own", "cudnn"] = "auto"
    """Convolutions of a GPU: own kernels, cuDNN wherever it can, or "auto", the faster one where cuDNN is installed."""
    deterministic: bool = True
    """Sums of cuDNN have one order, so that a step repeats bit for bit; those of own kernels always have."""
    graphs: Literal["auto", "on", "off"] = "off"
    """Steps of a GPU as CUDA graphs: "on", or "auto" where they can be; "off" until that has run on one."""
    memory_limit: Positive | None = None
    """What a rank may take of its GPU's memory: a share up to 1, bytes above; left out, all there is."""
    threads: Whole = 0
    """Threads of a rank; 0 takes OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or the rank's share of the cores."""

    @model_validator(mode="after")
    def _agree(self) -> ComputeSection:
        limit, device = self.memory_limit, f'compute.device = "{self.device}"'
        return refuse(self, [
            (self.precision == "bfloat16" and self.engine != "auto",
             f'compute.precision = "bfloat16" is oneDNN\'s; compute.engine = "{self.engine}" leaves it out: take auto'),
            (self.precision == "tf32" and self.device == "cpu",
             f'compute.precision = "tf32" is of a GPU\'s tensor cores, but {device}; take compute.device = "gpu", or '
             'compute.precision = "float32"'),
            (self.precision == "bf16" and self.device != "gpu",
             f'compute.precision = "bf16" stores activations of a GPU in two bytes, but {device}; take '
             'compute.device = "gpu", or for a processor compute.precision = "bfloat16"'),
            (self.precision == "bfloat16" and self.device == "gpu",
             f'compute.precision = "bfloat16" is oneDNN\'s, but {device}; take "bf16", "tf32", "float32", or the cpu'),
            (self.conv == "cudnn" and self.device == "cpu",
             f'compute.conv = "cudnn" is of GPUs, but {device}; take compute.device = "gpu", or leave it out'),
            (self.graphs == "on" and self.device == "cpu",
             f'compute.graphs = "on" is of GPUs, but {device}; take compute.device = "gpu", or compute.graphs = "off"'),
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
        return refuse(
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
