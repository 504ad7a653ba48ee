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

"""As `amdsmi` of AMD SMI's host library, in its names and shapes."""

from amdsmi import calls
from amdsmi import exceptions
from amdsmi import reader
from amdsmi import words

for _part in (calls, exceptions, reader, words):
    globals().update({name: value for name, value in vars(_part).items()
                      if name.lower().startswith('amdsmi')})
