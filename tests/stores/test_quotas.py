"""Quotas under requests that come at once."""

import concurrent.futures
import os

import pytest
from bed import Bed, Client, until

LIMIT = 1000


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_volumes_that_are_extended_at_once_stay_within_the_quota(park, tmp_path, kind):
    database = park.database() if kind == "postgres" else None
    with Bed(tmp_path, database=database, quota={"gigabytes": LIMIT}) as bed:
        member = Client(bed, bed.start())
        volumes = [member.create_volume() for _ in range(8)]

        def extend(volume, size=900):
            return member.request("POST", f"/v3/{member.project}/volumes/{volume}/action",
                                  {"os-extend": {"new_size": size}})[0]

        def used():
            quota = member.ask("GET", f"/os-quota-sets/{member.project}?usage=true")["quota_set"]
            assert quota["gigabytes"]["in_use"] == quota["gigabytes___DEFAULT__"]["in_use"]
            return quota["gigabytes"]["in_use"]

        with concurrent.futures.ThreadPoolExecutor(len(volumes)) as pool:
            answers = list(pool.map(extend, volumes))
        assert sorted(answers) == [202] + [413] * 7, answers
        # At once, and when the volume is larger: not twice.
        assert used() == 907
        grown = volumes[answers.index(202)]
        member.wait("volumes", grown, "available")
        assert used() == 907 and extend(grown, 994) == 413

        # An extension that fails gives its growth back.
        broken = next(volume for volume in volumes if volume != grown)
        os.remove(bed.volume_path(broken))
        assert extend(broken, 90) == 202
        until("it fails", lambda: member.show("volumes", broken)["status"] == "error_extending")
        assert used() == 907
        assert extend(grown, 993) == 202
        member.wait("volumes", grown, "available")
        assert used() == LIMIT
