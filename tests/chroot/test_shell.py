"""``make shell``: what is launched in it boots, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chroot.conftest import RELEASE
from tests.chroot.test_trial import ROOT, left
from tests.trial import RELEASE as TRIAL

pytestmark = pytest.mark.skipif(RELEASE != TRIAL, reason=f"it boots {TRIAL}")

TYPED = """\
set -eu
export AWS_DEFAULT_REGION=us-east-1
tags="{Key=KRKN-IN:Prefix,Value=kafka}, {Key=KRKN-IN:NodeId,Value=0}"
printf '#cloud-config\\nkraken: {enabled: true}\\n' >"$TMPDIR/user-data"
aws iam create-instance-profile --instance-profile-name kafka-node >/dev/null
aws ec2 create-volume --availability-zone us-east-1a --size 1 --query State \
    --tag-specifications "ResourceType=volume,Tags=[$tags,
        {Key=KRKN-IN:VolumeName,Value=log}, {Key=KRKN-IN:FsType,Value=ext4},
        {Key=KRKN-IN:MountPath,Value=/krkn_log}]"
node i-0123456789abcdef0 || echo refused
launch() {
    aws ec2 run-instances --image-id ami-0debian0012amd640 --instance-type t3.small \
        --iam-instance-profile Name=kafka-node --user-data "file://$TMPDIR/user-data" \
        --tag-specifications "ResourceType=instance,Tags=[$tags]" \
        --query 'Instances[0].InstanceId' --output text
}
first=$(launch)
aws ec2 wait instance-running --instance-ids "$first"
aws ssm start-session --target "$first" <<'NODE'
cloud-init status --wait >/dev/null
sudo cc-kraken status
ls /root/cloud-init-kraken_*_all.deb
echo kept >/krkn_log/file
NODE
aws ec2 terminate-instances --instance-ids "$first" >/dev/null
launch >/dev/null
node <<'NODE'
cloud-init status --wait >/dev/null
cat /krkn_log/file
NODE
rm "$TMPDIR/user-data"
"""


def test_what_is_launched_boots_and_nothing_stays(
    installed: object, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shell"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        input=TYPED,
        capture_output=True,
        text=True,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "mounted  /krkn_log" in done.stdout, told
    assert "\nkept\n" in done.stdout, told
    assert "\n/root/cloud-init-kraken_" in done.stdout, told
    assert "no such instance runs here" in done.stderr and "refused" in done.stdout
    assert "All of it is taken away again." in done.stdout
    assert left(tmp_path) == ""
