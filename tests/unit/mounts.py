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

"""For tests that mount something, in a namespace of their own."""

import functools
import subprocess
import unittest


def require(case: unittest.TestCase) -> None:
    """Skip a test where nothing can be mounted.

    Not a question of the uid: root in a container may lack the capability.
    """
    if not _possible():
        case.skipTest(
            'needs CAP_SYS_ADMIN, to mount; to run it, as root, in a '
            'container of a privileged one: python3 -m unittest '
            f'{type(case).__module__}')


@functools.cache
def _possible() -> bool:
    try:
        tried = subprocess.run(['unshare', '--mount', 'true'],
                               capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0
