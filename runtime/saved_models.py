"""What a SavedModel folder computes, read without running it: only operations that compute, and none on files.

A SavedModel is a program. TensorFlow's own advice is to run one from elsewhere in a sandbox, because its graph may read
and write files or call Python; here every operation that loading or answering can reach is looked at first.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runtime.errors import ConfigurationError

GRAPH = "saved_model.pb"
OTHER_GRAPHS = ("saved_model.pbtxt", "saved_model.cpb")
"""TensorFlow may take one of these in the place of the file that was looked at."""
STATEFUL = re.compile(
    r"VarHandleOp|_?ReadVariables?Op|Assign(Add|Sub)?VariableOp|VariableShape|VarIsInitializedOp|DisableCopyOnRead"
    r"|Resource(Gather|GatherNd|StridedSliceAssign|ScatterUpdate)|StatefulPartitionedCall|If|While|Case|DeviceIndex"
    r"|Rng(ReadAndSkip|Skip)|Stateful(Uniform|UniformInt|UniformFullInt|StandardNormalV2|TruncatedNormal)"
    r"|Random(Uniform|UniformInt|StandardNormal|Shuffle)|TruncatedNormal|Multinomial|StatelessRandomGetAlg"
    r"|CheckNumerics(V2)?|Assert|GuaranteeConst|Empty|CudnnRNN(Backprop)?(V2|V3)?"
    r"|TensorArray(Read|Write|Gather|Scatter|Size|Concat|Split|Close)?V3"
    r"|(Anonymous)?(Mutable)?HashTable(V2)?|LookupTable(Find|Import|Size|Export|Insert)V2|InitializeTableV2"
)
"""Of TensorFlow's operations with a state or an effect: those on variables, tables in memory and random numbers."""
EFFECTS = re.compile(
    r"File|Save|Restore|PyFunc|Dataset|Snapshot|Reader|Debug|Summary|Proto|Vocab|Remap|Remote|Host|Custom|Launch|"
    r"Compile|TPU|Tpu|Xla|Copy|Load|Shard|Iterator|Barrier|Infeed|Outfeed"
)
"""In the names of operations that TensorFlow calls stateless, and that yet touch files, other programs or devices."""
MAX_NAMED = 5


def check_saved_model(folder: Path) -> None:
    """Look at every operation that loading this folder, or asking the model, could run.

    Raises:
        ConfigurationError: it is no SavedModel of TensorFlow 2, or has an operation that does more than compute; the
            text names it and the function it is in.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    for name in OTHER_GRAPHS:
        if (folder / name).exists():
            raise ConfigurationError(f"{folder} holds {name}; a SavedModel is read from {GRAPH}: remove the other one")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((folder / GRAPH).read_bytes())
    except (OSError, DecodeError) as error:
        raise ConfigurationError(
            f"{folder} is not a SavedModel: {GRAPH}: {' '.join(str(error).split())[:300]}"
        ) from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise ConfigurationError(
            f"{folder} is a SavedModel of TensorFlow 1, or holds several graphs; save it again with TensorFlow 2"
        )
    _check_operations(folder, model.meta_graphs[0])


def _check_operations(folder: Path, graph: Any) -> None:
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    gradients = {entry.function_name: entry.gradient_func for entry in graph.graph_def.library.gradient}
    # TensorFlow may put one implementation of an interface in the place of another, whoever calls it.
    implementations = (name for name, function in library.items() if any("implements" in key for key in function.attr))
    first = [*graph.object_graph_def.concrete_functions, *_signature_functions(graph), *implementations]
    found = []
    for name in _reachable(first, library, gradients):
        found += [
            f"{node.op} (in {name[:80]})"
            for node in library[name].node_def
            if not (_computes(node.op) or (node.op in library and not _is_registered(node.op)))
        ]
    if found:
        named = ", ".join(dict.fromkeys(found[:MAX_NAMED])) + (
            f", and {len(found) - MAX_NAMED} more" * (len(found) > MAX_NAMED)
        )
        raise ConfigurationError(
            f"{folder} holds operations that are not known to compute and do nothing else: {named}; export the model "
            "without them: only from the image to its answer, with no files, Python functions or data sets"
        )


def _signature_functions(graph: Any) -> Iterator[str]:
    """Functions that signatures name by way of the graph's own nodes, where they are called."""
    wanted = {
        tensor.name.partition(":")[0].lstrip("^")
        for signature in graph.signature_def.values()
        for tensor in (*signature.outputs.values(),)
    }
    for node in graph.graph_def.node:
        if node.name in wanted:
            yield from _called(node)


def _reachable(first: Iterable[str], library: dict[str, Any], gradients: dict[str, str]) -> Iterator[str]:
    waiting, seen = [*first], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        yield name
        waiting += [gradients[name]] if name in gradients else []
        for node in library[name].node_def:
            waiting += [node.op, *_called(node)]
        for value in library[name].attr.values():
            waiting += [value.s.decode(errors="replace")] if value.s else []


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _is_registered(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(operation) is not None


def _computes(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(operation)
    if definition is None:
        return False
    return bool(STATEFUL.fullmatch(operation)) if definition.is_stateful else not EFFECTS.search(operation)
