"""One round of Flower's SecAgg+, with its own functions, for the figures beside ours.

`SecAggPlusWorkflow` and `secaggplus_mod` run in this process; between them is an object that hands
messages over, so that no network and no serialisation is in the figures. Server time is a stage
without its clients' part. Flower is no dependency of ours: absent, the report says so.
"""

import importlib
import importlib.util
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from benchmarks.report import Report, figure, median

WORKFLOW: Final = "flwr.server.workflow"
MOD: Final = "flwr.client.mod"
NUM_EXAMPLES: Final = 100


def flower_round(num_devices: int, num_dropped: int, size: int) -> Report:
    """Run one round on a complete graph, threshold N / 2, with dropouts after sharing.

    Median CPU milliseconds of a client's stages, and the server's; ``missing`` without Flower.
    """
    if importlib.util.find_spec("flwr") is None:
        return {"missing": "flwr is not installed here: pip install flwr==1.41.0"}
    try:
        grid = _Grid(num_devices, num_dropped, size)
        server_ms = _Server(grid, size).run()
    except (ImportError, AttributeError, TypeError) as error:
        return {"missing": f"flwr {version('flwr')} is not as 1.41.0: {error}"}
    return {
        "version": version("flwr"),
        "devices": num_devices,
        "dropped": num_dropped,
        "shares": num_devices,
        "threshold": num_devices // 2,
        "client_ms": {stage: median(times) for stage, times in grid.client_ms.items()},
        "client_all_ms": figure(sum(median(times) for times in grid.client_ms.values())),
        "server_ms": server_ms,
    }


class _Grid:
    """Carries messages to the clients at once. Clients 1, 2, ... ; the last ones drop out."""

    def __init__(self, num_devices: int, num_dropped: int, size: int) -> None:
        self.client_ms: dict[str, list[float]] = defaultdict(list)
        self.elsewhere_s = 0.0  # not spent by the server
        self.nodes = range(1, num_devices + 1)
        self.gone = set(self.nodes[num_devices - num_dropped :])
        self._app = importlib.import_module("flwr.app")
        self._common = importlib.import_module("flwr.common")
        self._compat = importlib.import_module("flwr.compat.common.recorddict_compat")
        self._mod = importlib.import_module(MOD).secaggplus_mod
        self._contexts = {node: self.context(node) for node in self.nodes}
        self._values = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)

    def context(self, node: int) -> Any:  # noqa: ANN401 - Flower's
        """Return an empty context."""
        state = self._app.RecordDict()
        return self._app.Context(
            run_id=1, node_id=node, node_config={}, state=state, run_config={}, series_id=1
        )

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None) -> list[Any]:
        """Return the replies of all clients that are still there."""
        del timeout
        arrived = time.process_time()
        replies = [self._reply(deepcopy(message)) for message in messages]
        self.elsewhere_s += time.process_time() - arrived
        return [reply for reply in replies if reply is not None]

    def _reply(self, message: Any) -> Any:  # noqa: ANN401 - Flower's
        node = message.metadata.dst_node_id
        stage = str(message.content.config_records["secaggplus_configs"]["stage"])
        if stage in ("collect_masked_vectors", "unmask") and node in self.gone:
            return None
        start = time.process_time()
        reply = self._mod(message, self._contexts[node], self._train)
        self.client_ms[stage].append(1e3 * (time.process_time() - start))
        return reply

    def _train(self, message: Any, _context: Any) -> Any:  # noqa: ANN401 - Flower's
        common = self._common
        parameters = common.ndarrays_to_parameters([self._values])
        fitted = common.FitRes(common.Status(common.Code.OK, ""), parameters, NUM_EXAMPLES, {})
        content = self._compat.fitres_to_recorddict(fitted, keep_input=False)
        return self._app.Message(content, reply_to=message)


class _Server:
    """The workflow of one round, a stage at a time."""

    def __init__(self, grid: _Grid, size: int) -> None:
        server = importlib.import_module("flwr.server")
        proxies = importlib.import_module("flwr.server.compat.grid_client_proxy")
        workflow = importlib.import_module(WORKFLOW)
        stages = importlib.import_module(f"{WORKFLOW}.secure_aggregation.secaggplus_workflow")
        app, common = importlib.import_module("flwr.app"), importlib.import_module("flwr.common")
        compat = importlib.import_module("flwr.compat.common.recorddict_compat")
        logging.getLogger("flwr").setLevel(logging.ERROR)
        identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
        identity.task_id = identity.run_id = identity.node_id = 1
        num_devices = len(grid.nodes)
        manager = server.SimpleClientManager()
        for node in grid.nodes:
            manager.register(proxies.GridClientProxy(node, grid, 1))
        self._context = server.LegacyContext(
            grid.context(0),
            config=server.ServerConfig(num_rounds=1),
            strategy=server.strategy.FedAvg(
                fraction_fit=1.0,
                min_fit_clients=num_devices,
                min_available_clients=num_devices,
            ),
            client_manager=manager,
        )
        self._context.state.config_records["config"] = app.ConfigRecord({"current_round": 1})
        first = common.ndarrays_to_parameters([np.zeros(size, np.float32)])
        self._context.state.array_records["parameters"] = compat.parameters_to_arrayrecord(
            first, keep_input=True
        )
        self._grid = grid
        self._state = stages.WorkflowState()
        secagg = workflow.SecAggPlusWorkflow(num_devices, num_devices // 2)
        self._stages: dict[str, Callable[..., bool]] = {
            "setup": secagg.setup_stage,
            "share_keys": secagg.share_keys_stage,
            "collect_masked_vectors": secagg.collect_masked_vectors_stage,
            "unmask": secagg.unmask_stage,
        }

    def run(self) -> Report:
        """Return the CPU milliseconds of each stage without its clients' part."""
        times: Report = {}
        for name, stage in self._stages.items():
            start, before_s = time.process_time(), self._grid.elsewhere_s
            if not stage(self._grid, self._context, self._state):
                raise RuntimeError(f"Flower's {name} failed")
            clients_s = self._grid.elsewhere_s - before_s
            times[name] = figure(1e3 * (time.process_time() - start - clients_s))
        return times
