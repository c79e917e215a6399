"""The whole of a real Cinder in one process: API, scheduler and one volume service for each backend.

The interpreter that has Cinder runs this, with Cinder's own options as arguments; `--with-backups` before them adds its
backup service. The parts talk over a queue in memory, so no message broker is needed."""

from cinder import monkey_patch

monkey_patch.patch()

import logging as python_logging  # noqa: E402 - Cinder wants its patches first
import shlex  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import cinder.privsep  # noqa: E402
import os_brick  # noqa: E402
import os_brick.privileged  # noqa: E402
from cinder import coordination, objects, rpc, service, utils, version  # noqa: E402
from cinder.cmd.volume import host_opt  # noqa: E402
from cinder.common import config, constants  # noqa: E402
from cinder.volume.drivers.nfs import NfsDriver  # noqa: E402
from oslo_config import cfg  # noqa: E402
from oslo_log import log  # noqa: E402
from oslo_privsep import priv_context  # noqa: E402


# Nothing here needs rights, so nothing is done by a second process that has them.
for context in (cinder.privsep.sys_admin_pctxt, os_brick.privileged.default):
    context.set_client_mode(False)
# A snapshot of an attached volume would be made by Nova. There is none, and no machine writes.
NfsDriver._is_volume_attached = lambda self, volume: False


def main():
    conf = cfg.CONF
    objects.register_all()
    arguments = sys.argv[1:]
    with_backups = arguments[:1] == ["--with-backups"]
    conf(arguments[with_backups:], project="cinder", version=version.version_string())
    config.set_middleware_defaults()
    log.setup(conf, "cinder")
    python_logging.captureWarnings(True)
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    utils.monkey_patch()
    os_brick.setup(conf)
    coordination.COORDINATOR.start()
    rpc.init(conf)
    services = [service.Service.create(binary=constants.SCHEDULER_BINARY)]
    for backend in conf.enabled_backends:
        conf.register_opt(host_opt, group=backend)
        host = f"{conf.host}@{backend}"
        services.append(service.Service.create(
            host=host, service_name=backend, binary=constants.VOLUME_BINARY, coordination=True))
    if with_backups:
        services.append(service.Service.create(
            binary=constants.BACKUP_BINARY, coordination=True, service_name="backup", process_number=1,
            semaphore=utils.semaphore_factory(15, 1)))
    for each in services:
        each.start()
    service.WSGIService("osapi_volume").start()
    while True:
        time.sleep(3600)


main()
