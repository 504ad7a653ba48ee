# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Who opens the files under /dev/vfio.

They are root's by default. The agent opens them itself where a udev rule
lets it; only where it may not does a helper open them and hand the
descriptor over, and nothing else of the agent runs as root.
"""

import errno
import os


def open_directly(path: str) -> int:
    """Open as who we are."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


class Rights:
    """Opens directly, and through a helper what it may not."""

    def __init__(self, helper_command: str) -> None:
        """:param helper_command: '' for no helper."""
        self._helper_command = helper_command

    def __call__(self, path: str) -> int:
        try:
            return open_directly(path)
        except OSError as exc:
            if (exc.errno not in (errno.EACCES, errno.EPERM)
                    or not self._helper_command):
                raise
        # Imported when needed: it registers a context with oslo.privsep.
        from nova_vgpu_mig.gpu.vfio import privileged
        return privileged.open_file(path, self._helper_command)
