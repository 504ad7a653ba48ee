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

"""The event reader: a queue, with the library's time-out."""

import queue

from amdsmi.exceptions import AmdSmiTimeoutException
from amdsmi.machine import MACHINE


class AmdSmiEventReader:
    def __init__(self, processor_list, category_list, severity=None):
        MACHINE.check('event_create')
        self.categories = frozenset(category_list)
        MACHINE.readers += 1

    def read(self, timestamp):
        """:param timestamp: microseconds to wait, as the real one names it."""
        try:
            told = MACHINE.events.get(timeout=timestamp / 1e6)
        except queue.Empty:
            raise AmdSmiTimeoutException() from None
        if isinstance(told, Exception):
            raise told
        return told

    def stop(self):
        MACHINE.readers -= 1

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()
