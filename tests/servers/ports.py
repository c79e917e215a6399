"""Ports that stay free for a server while it is down, whatever other tests run beside it."""

import json
import random
import socket

# Below the range from which the kernel takes ports of outgoing connections: one of those could
# otherwise sit on a server's port at the moment it comes up again.
LOWEST, HIGHEST = 10_000, 32_000
#: What tells other processes that a port is ours, by port. The kernel forgets it when we end.
_claims = {}


def keep(file, names):
    """A port for each name, remembered in `file`: a server's own state has its address in it."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    for port in kept.values():
        _claim(port)
    for name in names:
        if name not in kept:
            kept[name] = free()
    if names:
        file.write_text(json.dumps(kept))
    return kept


def free():
    """A port of 127.0.0.1 that nothing uses and that no test, in whatever process, has been given."""
    while True:
        port = random.SystemRandom().randint(LOWEST, HIGHEST)
        if not _claim(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _claim(port):
    """Whether the port is ours from now on. The claim is a name that one socket on this network can have."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0embervault-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims[port] = claim
    return True


def taken(port):
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def open_at(port):
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
