# A Ray cluster on the nodes of a Slurm allocation, for the batch scripts beside this file. It is
# sourced; afterwards `run COMMAND …` runs a command on the cluster, ends the cluster with it, and
# requeues the job when Slurm is about to take its nodes away: the command then goes on from what it
# has stored.
#
# Slurm runs the batch script on the first node of the allocation. There Ray's head starts, workers
# on all others, each as a job step that ends with the job; so does the command, in the script.

HANDLOOM=${HANDLOOM:-$SLURM_SUBMIT_DIR} # the checkout, at the same path on all nodes
export PATH="$HANDLOOM/.venv/bin:$PATH" PYTHONUNBUFFERED=1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on a node do not meet

# A token for this job's Ray alone: steps are given this environment, and other users cannot read it.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# Ray's own files, in a folder for this job: /tmp/ray belongs to whoever used the node first.
ray_files=/tmp/ray-$SLURM_JOB_ID

ray_node() { # NODE OPTIONS …: Ray on one node, until its step is ended
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="$SLURM_CPUS_PER_TASK" --overlap \
        ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$ray_files" \
        --dashboard-agent-listen-port=0 "$@" &
    steps+=($!)
}

run() { # COMMAND …
    steps=() driver='' requeue=''
    # --signal=B:TERM@120 sends this to the script alone; a preemption sends it to all processes.
    trap stop_command TERM
    trap end_cluster EXIT

    ray_node "${nodes[0]}" --head --port="$port" --include-dashboard=false
    export RAY_ADDRESS=${nodes[0]}:$port
    wait_for_head
    for node in "${nodes[@]:1}"; do
        ray_node "$node" --address="$RAY_ADDRESS"
    done

    "$@" &
    driver=$!
    local status
    while true; do # a signal ends `wait` before the command has ended
        wait "$driver" && status=0 || status=$?
        kill -0 "$driver" 2>/dev/null || break
    done
    exit "$status"
}

wait_for_head() {
    for _ in {1..60}; do
        ray status --address="$RAY_ADDRESS" >/dev/null 2>&1 && return
        kill -0 "${steps[0]}" 2>/dev/null || break
        sleep 2
    done
    echo "Ray's head did not start on ${nodes[0]}, see the messages above" >&2
    exit 1
}

stop_command() {
    requeue=yes
    [[ -n $driver ]] || exit 143
    kill -TERM "$driver"
}

end_cluster() {
    local status=$?
    {   # by its steps: `ray stop` would end the Ray of other jobs too
        kill -TERM "${steps[@]}"
        wait "${steps[@]}"
        srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --overlap rm -rf "$ray_files"
    } 2>/dev/null
    if [[ -n $requeue && $status != 0 ]]; then
        echo "requeued: job $SLURM_JOB_ID goes on from what it has stored"
        scontrol requeue "$SLURM_JOB_ID"
    fi
}
