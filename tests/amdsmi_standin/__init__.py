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

"""Stands for AMD SMI's host library, on a machine that has none.

The package `amdsmi` beside this file has the calls that the GPU driver
`gim` makes, with the names, arguments and shapes of results that AMD
documents for its Python interface. It is found as the real one is: by
importing `amdsmi`. What a test changes in `amdsmi.machine` shows in the
calls. Whether the real library agrees has been tried on no AMD hardware.
"""

import importlib
import pathlib
import sys


def install(case):
    """Make `import amdsmi` find a fresh stand-in; return its machine."""
    forget()
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    case.addCleanup(forget)
    case.addCleanup(sys.path.remove, str(pathlib.Path(__file__).parent))
    return importlib.import_module('amdsmi.machine').MACHINE


def forget():
    for name in [n for n in sys.modules if n.split('.')[0] == 'amdsmi']:
        del sys.modules[name]
