"""Devices, the mesh, sharding and processes. Only this package handles more than one device."""

from score_sde.parallel.host import configure_host, enable_compilation_cache, keep_heap_pages
from score_sde.parallel.mesh import (
    AXES,
    BATCH_AXES,
    batch_part,
    batch_shards,
    check_batch_size,
    make_mesh,
    mesh_for_batch,
    round_up,
)
from score_sde.parallel.processes import Processes, end_failed_process, find_processes, initialize_distributed, meet
from score_sde.parallel.sharding import (
    TensorAxis,
    batch_sharding,
    bytes_per_device,
    merge_microbatches,
    names_of,
    partition,
    place,
    replicate,
    replicated,
    shard_batch,
    split_microbatches,
    to_host,
    tree_sharding,
)
