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

"""Choosing the plugin that fits this machine best.

GPU drivers and VMM ports are entry points; each says how well it fits, and
the best one wins. Rejected: a plugin's name in the configuration. It would
be one more thing to get wrong on each host, and the machine knows.
"""

from collections.abc import Iterable
import dataclasses
import logging
from typing import Any
from typing import Generic
from typing import Protocol
from typing import TypeVar

from oslo_config import cfg
from stevedore import extension

LOG = logging.getLogger(__name__)


class Plugin(Protocol):
    """What every plugin has to say of itself."""

    @property
    def name(self) -> str:
        """As in messages."""

    def evaluate_support(self) -> int:
        """How well it fits this machine; 0: not at all."""


PluginT = TypeVar('PluginT', bound=Plugin)


@dataclasses.dataclass(frozen=True)
class Family(Generic[PluginT]):
    """One kind of plugin, and where its members are found."""

    kind: str
    """As in messages: 'GPU driver'."""

    namespace: str
    """Of the entry points."""

    nothing_fits: type[Exception]
    advice: str
    """What to do when nothing fits."""

    def best(self, plugins: Iterable[PluginT]) -> PluginT:
        """Return the one with the highest evaluate_support().

        :raises nothing_fits: every one says 0, or fails to answer; the
            message names each that was asked.
        """
        marks: list[tuple[int, PluginT]] = []
        tried: list[str] = []
        for plugin in plugins:
            try:
                mark = plugin.evaluate_support()
            except Exception as exc:
                LOG.exception('%s %s failed to look at this machine',
                              self.kind, plugin.name)
                tried.append(f'{plugin.name} failed: {exc}')
                continue
            tried.append(f'{plugin.name} does not fit')
            if mark > 0:
                marks.append((mark, plugin))
        if not marks:
            asked = '; '.join(tried) or ('none is installed under '
                                         f'{self.namespace}')
            raise self.nothing_fits(
                f'No {self.kind} fits this machine ({asked}). {self.advice}')
        return max(marks, key=lambda pair: pair[0])[1]

    def load(self, conf: cfg.ConfigOpts) -> PluginT:
        """Load every one that is installed and return the best.

        :raises nothing_fits: as best().
        """
        def failed(manager: Any, entry_point: Any, exc: Exception) -> None:
            LOG.warning('%s %s cannot be loaded: %s', self.kind,
                        entry_point.name, exc)

        found = extension.ExtensionManager(
            self.namespace, invoke_on_load=True, invoke_args=(conf,),
            on_load_failure_callback=failed)
        return self.best(item.obj for item in found)
