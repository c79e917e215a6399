"""Connects volumes to this machine with os-brick. One process does one thing: a line of JSON says what, and a line of
JSON is the answer. It ends, with all that it has started, when its standard input ends."""

import contextlib
import json
import os
import shlex
import signal
import sys
import threading

# What libraries print is no part of the answer.
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def set_up(asked):
    import os_brick
    from os_brick import privileged
    from oslo_concurrency import lockutils  # noqa: F401 - registers options that os-brick reads
    from oslo_config import cfg
    from oslo_privsep import priv_context

    conf = cfg.CONF
    conf([], project="os_brick", default_config_files=[], default_config_dirs=[])
    os_brick.setup(conf)
    locks = os.path.join(asked["dir"], "locks")
    os.makedirs(locks, exist_ok=True)
    conf.set_override("lock_path", locks, group="os_brick")
    if asked["root_helper"]:
        priv_context.init(root_helper=shlex.split(asked["root_helper"]))
    else:
        # What needs rights is done by this process itself, which has them or fails.
        privileged.default.set_client_mode(False)
    return asked["root_helper"] or ""


def connector(asked, helper):
    from os_brick.initiator import connector as connectors

    connection = asked["connection"]
    protocol = connection["driver_volume_type"]
    options = {}
    if protocol in ("nfs", "glusterfs", "scality", "quobyte", "vzstorage"):
        data = connection["data"]
        options[f"{protocol}_mount_point_base"] = os.path.join(asked["dir"], "mounts")
        options[f"{protocol}_mount_options"] = data.get("options")
    return connectors.InitiatorConnector.factory(
        protocol, helper, use_multipath=asked["multipath"], device_scan_attempts=3, conn=connection, **options)


def do(asked):
    helper = set_up(asked)
    work = asked["do"]
    if work == "look":
        import importlib.metadata

        return {"version": importlib.metadata.version("os-brick")}
    if work == "describe":
        from os_brick.initiator import connector as connectors
        from oslo_utils import netutils

        address = asked["address"] or netutils.get_my_ipv4()
        return {"connector": connectors.get_connector_properties(
            helper, address, asked["multipath"], enforce_multipath=False)}
    data = asked["connection"]["data"]
    if work == "connect":
        found = connector(asked, helper).connect_volume(data)
        path = found["path"]
        return {"path": path if isinstance(path, str) else os.fsdecode(path)}
    if work == "disconnect":
        connector(asked, helper).disconnect_volume(data, None, force=True, ignore_errors=True)
        return {}
    raise ValueError(f"no such work: {work}")


def end_with_input():
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


asked = json.loads(sys.stdin.readline())
threading.Thread(target=end_with_input, daemon=True).start()
try:
    done = do(asked)
except BaseException as error:  # noqa: BLE001 - whatever it is, the service says it
    done = {"error": f"{type(error).__name__}: {error}"}
with contextlib.suppress(OSError):
    answer.write(json.dumps(done) + "\n")
    answer.flush()
# Threads of libraries must not keep it.
os._exit(0)
