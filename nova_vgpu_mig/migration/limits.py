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


"""What bounds one move: the downtime limit, the rounds, the waiting.

Values instead of options, because the downtime limit belongs to the VM (its
flavor) and only its default to the host, and because the engine is used
without any configuration by the benchmark.
"""

import dataclasses
import errno
from typing import Self

from oslo_config import cfg

from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.planning import downtime


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """All times in seconds."""

    downtime_seconds: float = 0.5
    """What the VM's owner accepts; the switchover aims below it."""

    costs: downtime.FixedCosts = dataclasses.field(
        default_factory=downtime.FixedCosts)
    """What a switchover costs whatever is dirty; best as last measured."""

    max_rounds: int = 30
    connect_seconds: float = 10.0
    silence_seconds: float = 30.0
    """How long the peer may send and take nothing."""

    reconnect_seconds: float = 10.0
    """How long to try to connect again after a loss; 0: not at all."""

    load_seconds: float = 60.0
    """How long the other end may take to load, verify and run."""

    fence_seconds: float = 2.0
    """How long to wait, after the move, for the first fence to retire."""

    ask_seconds: float = 2.0
    """Between two questions of a destination in doubt."""

    level: contract.Level | None = None
    """Force a level; None takes UNITS where the device has it."""

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts,
                  downtime_seconds: float | None = None,
                  costs: downtime.FixedCosts | None = None) -> Self:
        """Take the [vgpu_mig_migration] options of `conf`.

        :param downtime_seconds: the VM's own limit, instead of the host's.
        :param costs: as measured on this host, instead of assumed ones.
        """
        migration_conf.register_opts(conf)
        group = conf[migration_conf.GROUP]
        if downtime_seconds is None:
            downtime_seconds = group.max_downtime_ms / 1000
        return cls(
            downtime_seconds=downtime_seconds,
            costs=costs or downtime.FixedCosts(),
            max_rounds=group.max_rounds,
            connect_seconds=group.connect_timeout,
            silence_seconds=group.silence_timeout,
            reconnect_seconds=group.reconnect_timeout,
            load_seconds=group.load_timeout,
            fence_seconds=group.first_fence_timeout,
            ask_seconds=group.ask_interval,
            level=(None if group.level == 'best'
                   else contract.Level(group.level)))

    def select_level(self, device: contract.MigrationDevice
                     ) -> contract.Level:
        """Choose the level of a device and tell it.

        :raises contract.DeviceError: it has no such level.
        """
        mapped = isinstance(device, contract.UnitDevice)
        best = contract.Level.UNITS if mapped else contract.Level.STREAM
        level = self.level or best
        if isinstance(device, contract.UnitDevice):
            device.select_level(level)
        elif level is not best:
            raise contract.DeviceError(
                errno.EOPNOTSUPP, device.address, f'the device has no level '
                f'{level}; set [{migration_conf.GROUP}] level to best')
        return level
