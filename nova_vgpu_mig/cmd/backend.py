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

"""Native threads, chosen before anything else is imported.

`import oslo_messaging` alone pins oslo.service to eventlet where eventlet is
installed, and several oslo libraries import eventlet only because it is
there. A process of ours calls choose() first; whatever then asks for
eventlet is told that it is not installed.
"""

import sys


def choose() -> None:
    """Choose oslo.service's threading backend for this process.

    :raises RuntimeError: something has imported eventlet already.
    """
    if sys.modules.get('eventlet') is not None:
        raise RuntimeError('eventlet was imported before the threading '
                           'backend was chosen; this is a bug')
    # None makes each `import eventlet` an ImportError.
    sys.modules['eventlet'] = None  # type: ignore[assignment]
    from oslo_service import backend
    backend.init_backend(backend.BackendType.THREADING)
