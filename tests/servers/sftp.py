"""OpenSSH that gives its user files and nothing else."""

import os
import pwd
import re
import subprocess
from pathlib import Path

from . import Server, ports, program

CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {dir}/host
PidFile none
AuthorizedKeysFile {dir}/authorized_keys
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitRootLogin yes
AllowTcpForwarding no
MaxStartups 256
MaxSessions 256
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""


class Sftp(Server):
    """The user is who runs the tests; its key and the server's are made here and trusted nowhere else."""

    programs = {"sshd": "openssh-server", "ssh-keygen": "openssh-client"}
    port_names = ("ssh",)

    def make(self):
        for name in ("host", "user"):
            command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", self.data / name]
            subprocess.run(command, check=True)
        port = self.ports["ssh"]
        host_key = (self.data / "host.pub").read_text()
        (self.data / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        (self.data / "authorized_keys").write_bytes((self.data / "user.pub").read_bytes())
        (self.data / "sshd_config").write_text(CONFIGURATION.format(port=port, dir=self.data))
        (self.data / "files").mkdir()

    def run(self):
        if os.geteuid() == 0:  # Its name is compiled in; where no service manager runs, nobody else makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.spawn("sshd", ["sshd", "-D", "-e", "-f", self.data / "sshd_config"])
        self.until(lambda: ports.open_at(self.ports["ssh"]), "sshd accepts connections")

    def version(self):
        printed = subprocess.run([program("sshd"), "-V"], capture_output=True, text=True).stderr
        return "OpenSSH " + re.search(r"OpenSSH_([^\s,]+)", printed)[1]

    def storage(self, name, place):
        """A folder, made if need be."""
        folder = self.data / "files" / place
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "url": f"sftp://127.0.0.1:{self.ports['ssh']}{folder}",
            "sftp": {
                "user": pwd.getpwuid(os.geteuid()).pw_name,
                "key_file": str(self.data / "user"),
                "known_hosts_file": str(self.data / "known_hosts"),
            },
        }
