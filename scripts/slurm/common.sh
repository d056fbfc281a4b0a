# shellcheck shell=bash
# What the batch scripts share: the site, the one srun line, the signals.  Read by them, not run.
#
#   sbatch  ->  train.sbatch  ->  common.sh  ->  sites/$GRIDNN_SITE.sh      all that is local
#                                     |
#                               ranks N WORDS ...  =  srun ... python WORDS ...
#
#   what comes                             who gets it        what happens
#   SIGUSR1: the time is nearly up         this script        passed on; the ranks save and leave with 85; requeued
#   SIGTERM: scancel, scontrol requeue     ranks and script   the ranks save and leave with 143; Slurm does what it was told
#   SIGTERM: preemption                    ranks              the same; requeued, here or by Slurm
#   a rank fails, is killed, or leaves     srun               the other ranks are ended, the job fails with its code

# Exit codes of gridnn.train for: saved, not finished, start me again; and: saved, because SIGTERM came.
REQUEUE=85 ENDED=143

refuse() {
    echo "error: $*" >&2
    exit 2
}

# The checkout: told by `submit`, else the folder in which sbatch was called.  (Slurm runs a copy of the script.)
GRIDNN_HOME=${GRIDNN_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
GRIDNN_SITE=${GRIDNN_SITE:-local}
site=$GRIDNN_HOME/scripts/slurm/sites/$GRIDNN_SITE.sh
[ -r "$site" ] || refuse "no site file $site; copy sites/example.sh to it, or set GRIDNN_SITE to one of:" \
    "$(cd "$GRIDNN_HOME/scripts/slurm/sites" && echo *.sh)"
GRIDNN_SRUN=()
# shellcheck source=sites/local.sh
. "$site"
for needed in GRIDNN_PYTHON GRIDNN_MPI GRIDNN_RUNS; do
    [ -n "${!needed:-}" ] || refuse "site file $site sets no $needed; sites/example.sh says what it is"
done
command -v "$GRIDNN_PYTHON" >/dev/null || refuse "site file $site: no Python at GRIDNN_PYTHON=$GRIDNN_PYTHON"

# A name of this job that a requeue keeps and no other job has: 123, or 123_4 for task 4 of array 123.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-${SLURM_JOB_ID:?run by sbatch only}}

began=$(date +%s)
step="" ending="" signals=0

on_warning() {
    signals=$((signals + 1))
    echo "warning signal: the time is nearly up, the ranks are told to save"
    [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null || true # srun passes it on to every rank
}

# Slurm sends SIGTERM to the ranks itself; srun would answer with SIGKILL to all of them, so it is not passed on.
on_end() {
    signals=$((signals + 1))
    ending=yes
    echo "SIGTERM: the job is ended by Slurm, the ranks are given time to save"
}

trap on_warning USR1
trap on_end TERM

# After a restart: remove from every node what ranks of ours that were killed left in memory.  MPICH names it after job and
# step, both the same as before, and would take it for its own.  What a process has mapped, or is newer than us, stays.
sweep() {
    # shellcheck disable=SC2016  # for the other shell
    srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --mpi=none sh -c '
        find /dev/shm -maxdepth 1 -user "$(id -u)" -name "mpich_*" ! -newermt "@$1" 2>/dev/null | while read -r file; do
            grep -qsF "$file" /proc/[0-9]*/maps || rm -f "$file"
        done' - "$began" || true
}

# Start `python WORDS ...` on N ranks, wait for its end, return its exit code: ranks N WORDS ...
ranks() {
    local n=$1 code again seen nodes
    shift
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || sweep
    # As few nodes as hold them: a step on part of the allocation is otherwise spread over all of it.
    nodes=$(((n * SLURM_JOB_NUM_NODES + SLURM_NTASKS - 1) / SLURM_NTASKS))
    # --kill-on-bad-exit, --wait: no rank outlives another that failed, by more than 30 s one that left in peace.
    # --cpus-per-task: srun does not take it over from sbatch by itself (since Slurm 22.05).
    # sh: a warning that comes before Python listens must not end it; the run looks at its time limit as well.
    srun --ntasks="$n" --nodes="$nodes" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --mpi="$GRIDNN_MPI" \
        --kill-on-bad-exit=1 --wait=30 "${GRIDNN_SRUN[@]}" \
        sh -c 'trap "" USR1; exec "$@"' - "$GRIDNN_PYTHON" "$@" &
    step=$!
    # A signal ends the wait, not the step: wait again.  A second wait that knows nothing (127) leaves the first's word.
    code=0
    seen=""
    while [ "$seen" != "$signals" ]; do
        seen=$signals
        again=0
        wait "$step" || again=$?
        [ "$again" = 127 ] || code=$again
    done
    step=""
    return "$code"
}

# Has Slurm ended the ranks to make room for others, and given the job a while to leave?
preempted() {
    scontrol --oneliner show job "$job" 2>/dev/null | grep -q 'JobState=RUNNING .*PreemptTime=[0-9]'
}

# End the script with an exit code; 85 puts the job back into the queue first.
finish() {
    local restarts=${SLURM_RESTART_COUNT:-0} again=""
    # A preempted job that outlives its while is requeued by Slurm; one that left in time counts as ended.
    if [ -z "$ending" ] && { [ "$1" = "$REQUEUE" ] || { [ "$1" = "$ENDED" ] && preempted; }; }; then again=yes; fi
    if [ -n "$again" ] && [ "$restarts" -ge "${GRIDNN_MAX_RESTARTS:-100}" ]; then
        echo "job $job: not finished, and not requeued: $restarts restarts, GRIDNN_MAX_RESTARTS allows no more" >&2
    elif [ -n "$again" ] && scontrol requeue "$job"; then # by this name: the number alone may be that of a whole array
        echo "job $job: saved and requeued; restart $((restarts + 1)) will resume"
    elif [ -n "$again" ]; then
        echo "job $job: saved, but this Slurm refuses to requeue; submit it again with the same --run-dir" >&2
    fi
    exit "$1"
}
