"""The world: all processes of a run, their communicators, what they sent, how long it took, where they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gridnn.comm.clock import Clock
from gridnn.comm.cuda_aware import KINDS_KEY, Support, detect, mapped
from gridnn.comm.trail import Trail
from gridnn.comm.transport import Host, Transport
from gridnn.compute.cpu.memory import Memory
from gridnn.errors import InputError
from gridnn.geometry.traffic import Traffic

if TYPE_CHECKING:
    from gridnn.comm.carrier import Carrier

try:
    from mpi4py import MPI

    from gridnn.comm.carrier import BY_MPI
    from gridnn.comm.patience import Patience
    from gridnn.comm.progress import Progress
    from gridnn.comm.sums import Sums
except ImportError as missing:  # no mpi4py, or no MPI library behind it
    raise InputError(
        f'gridnn needs mpi4py and an MPI to run ({missing}); install both with: pip install "gridnn[mpi]", '
        'or, for the MPI of your site: pip install "gridnn[site-mpi]"'
    ) from missing

Array = NDArray[Any]


class World:
    """Communicators, ledger and clock of one rank; a context manager that frees what it made.

    Parameters
    ----------
    comm
        The communicator of the run; it is duplicated, so that no message of others is ever met.

    Attributes
    ----------
    memory
        Where the rank's arrays come from: the host's, or a device's that was set in its place.
    transport
        How they become messages.
    patience
        How the rank waits for them.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.ledger = Traffic()
        self.clock = Clock()
        self.trail = Trail()
        host = Memory()
        self.memory: Any = host
        self.transport: Transport = Host(host)
        self.patience = Patience()
        self.sums = Sums(self.patience)
        self.progress = Progress(self.comm, self.sums.drive)
        self._groups: dict[tuple[str, tuple[int, ...]], MPI.Intracomm] = {
            ("", tuple(range(self.size))): self.comm
        }
        self._closers: list[Callable[[bool], None]] = []

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if kind is None:  # after an error others may not follow: freeing could wait for ever
            self.close()
        else:
            self._close_others(orderly=False)

    def close(self) -> None:
        """Free the communicators.  Collective."""
        self._close_others(orderly=True)
        self.progress.close()
        for comm in self._groups.values():
            comm.Free()
        self._groups.clear()

    def also_close(self, closer: Callable[[bool], None]) -> None:
        """Have something of this world closed with it; it is told whether all ranks come to that, and in order."""
        self._closers.append(closer)

    def _close_others(self, orderly: bool) -> None:
        while self._closers:
            self._closers.pop()(orderly)

    def carrier(self, array: Array) -> Carrier:
        """Return who takes an array from rank to rank."""
        return self.transport.direct(array) or BY_MPI

    def cores_per_rank(self, mine: set[int]) -> int:
        """Return how many cores each rank of this host can have for itself, at least 1.  Collective.

        Parameters
        ----------
        mine
            Cores this process may run on: all of the host where the launcher binds nothing, else its own.
        """
        host = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        cores = set[int]().union(*host.allgather(mine))
        ranks = host.size
        host.Free()
        return max(1, len(cores) // ranks)

    def share_cores(self, machine: str, mine: set[int]) -> bool:
        """Return whether some machine has more ranks than cores; the same on all ranks.  Collective.

        Parameters
        ----------
        machine
            What tells it from others, the same in all containers on it.
        mine
            Cores this process may run on.
        """
        cores, ranks = defaultdict[str, set[int]](set), Counter[str]()
        for name, its in self.comm.allgather((machine, mine)):
            cores[name] |= its
            ranks[name] += 1
        return any(ranks[name] > len(cores[name]) for name in ranks)

    def rank_on_host(self) -> int:
        """Return this rank's number among those of its host.  Collective."""
        host = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        rank: int = host.rank
        host.Free()
        return rank

    def group(self, ranks: tuple[int, ...], purpose: str = "") -> MPI.Intracomm:
        """Return the communicator of `ranks` (ascending world ranks) for a purpose, made on first use by them."""
        at = (purpose, ranks)
        if at not in self._groups:
            group = self.comm.group.Incl(ranks)
            self._groups[at] = self.comm.Create_group(group, tag=ranks[0])
            group.Free()
        return self._groups[at]


def world_comm() -> MPI.Intracomm:
    """Return the communicator of all started processes."""
    return MPI.COMM_WORLD


def mpi_version() -> str:
    """Return the first line of the MPI library's own description."""
    return MPI.Get_library_version().splitlines()[0].strip()


def device_support(environment: Mapping[str, str]) -> Support:
    """Return whether this MPI takes memory of CUDA devices.

    Parameters
    ----------
    environment
        Of this process.
    """
    info = world_comm().Get_info()
    kinds = info.get(KINDS_KEY)
    info.Free()
    return detect(environment, MPI.Get_library_version(), kinds, mapped())


def check_singletons(environment: Mapping[str, str], size: int) -> None:
    """Refuse processes that a launcher started together but that MPI does not see together.

    Raises
    ------
    InputError
        When the launcher says more processes than MPI does: wrong ``srun --mpi``, or an ``mpiexec`` of another MPI.
    """
    launchers = {
        "PMI_SIZE": "mpiexec (of MPICH or Intel MPI)",
        "OMPI_COMM_WORLD_SIZE": "mpiexec (of Open MPI)",
        "SLURM_STEP_NUM_TASKS": "srun",
    }
    for variable, launcher in launchers.items():
        started = int(environment.get(variable) or 1)
        if size == 1 and started > 1:
            raise InputError(
                f"{launcher} started {started} processes ({variable}), but MPI ({mpi_version()}) sees only this one: "
                f"they would be {started} separate runs.  Use the mpiexec beside this Python, or for srun the PMI "
                "that this MPI speaks: srun --mpi=pmi2 (MPICH), srun --mpi=pmix (Open MPI)"
            )
