"""A user who backs up and deletes for as long as it is told to, whatever is killed meanwhile."""

import random
import threading

from bed import MIB, Client, until


class Tenant(threading.Thread):
    """Uses a volume of its own, and remembers what its backups must come back as."""

    def __init__(self, bed, api, seed, stop):
        super().__init__(daemon=True)
        self.bed, self.api, self.stop = bed, api, stop
        self.random = random.Random(seed)
        self.digests, self.problem, self.turns = {}, None, 0

    def run(self):
        try:
            self.demo = self.patiently(lambda: Client(self.bed, self.api()))
            self.volume = self.patiently(lambda: self.demo.ask("POST", "/volumes", {"volume": {"size": 1}}))["volume"]["id"]
            self.settled("volumes", self.volume)
            while not self.stop.is_set():
                self.turn()
                self.turns += 1
        except Exception as problem:  # It is looked at by who started us.
            self.problem = problem

    def patiently(self, work):
        """Until it works: who is killed comes back."""
        def attempt():
            if hasattr(self, "demo"):
                self.demo.process = self.api()
            return work()

        return until("the service answers", attempt, 300)

    def settled(self, kind, id):
        return self.patiently(lambda: (row := self.demo.show(kind, id))["status"] in
                              ("available", "error", "error_restoring") and row)

    def turn(self):
        offset = self.random.randrange(0, 20 * MIB, 4096)
        self.bed.write(self.volume, offset, self.random.randbytes(self.random.randrange(4096, 2 * MIB)))
        digest = self.bed.digest(self.volume)
        name = f"turn-{self.turns}"
        body = {"backup": {"volume_id": self.volume, "name": name, "incremental": bool(self.digests), "force": True}}

        def find():
            rows = self.demo.ask("GET", f"/backups/detail?volume_id={self.volume}&name={name}")["backups"]
            return rows[0]["id"] if rows else None

        # Who asks and hears nothing looks first whether it was done.
        backup = self.patiently(lambda: find() or self.demo.ask("POST", "/backups", body)["backup"]["id"])
        if self.settled("backups", backup)["status"] == "available":
            self.digests[backup] = digest
        if len(self.digests) > 12 or (len(self.digests) > 3 and self.random.random() < 0.5):
            gone = self.random.choice(list(self.digests))
            del self.digests[gone]
            self.patiently(lambda: self.demo.request("DELETE", f"/v3/{self.demo.project}/backups/{gone}")[0] in
                           (202, 404))
