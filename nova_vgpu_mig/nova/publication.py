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

"""What a compute node publishes of its VFs, for the scheduler to judge.

The only road from a node to a filter without an RPC call of the scheduler's
is the node's `stats`: a text of JSON under one key, which Nova stores in a
column of 64 KiB that it shares with its own counters and escapes twice. So
the text is kept under 16 KiB: identities are written once and referred to
by the pools. When that is still too much, less is said and said so: first
the addresses of the VFs go and only their number stays, then whole pools go
and are counted as omitted.

Whoever reads it trusts nothing: a node may be newer, older, or broken.
This module imports nothing of Nova, so that the agent's side and tests can
use it alone.
"""

from collections.abc import Sequence
import dataclasses
import json
import re
from typing import Any

from nova_vgpu_mig.compatibility import health as health_module
from nova_vgpu_mig.compatibility import identity

_Identity = identity.VFIdentity

KEY = 'vgpu_mig'
"""The key in a compute node's `stats`."""

VERSION = 1
MAX_BYTES = 16 * 1024
_MAX_VFS = 256
"""VFs of a PF: SR-IOV's numbers go further, no GPU does."""

_PCI = r'[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]'
_UUID = '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
_ADDRESS = re.compile(f'{_PCI}|{_UUID}')
_PARENT = re.compile(f'{_PCI}|[!-9;-~]{{1,64}}')
"""A PCI address, or the name of another device that has mdevs."""


class PublicationError(ValueError):
    """A node published what cannot be read, or too little to tell."""


@dataclasses.dataclass(frozen=True, slots=True)
class VF:
    address: str
    index: int
    free: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """VFs of one PF, or mediated devices of one parent and type.

    All of them share one identity; a PF or parent with several has a pool
    for each.
    """

    pf_address: str
    identity: _Identity
    free_vfs: int
    vfs: tuple[VF, ...] | None = None
    """None: left out for room."""

    health: health_module.Health = health_module.UNKNOWN

    @classmethod
    def of(cls, pf_address: str, kind: _Identity,
           vfs: Sequence[VF],
           health: health_module.Health = health_module.UNKNOWN) -> 'Pool':
        """Return a pool whose VFs are all known."""
        return cls(pf_address, kind, sum(vf.free for vf in vfs), tuple(vfs),
                   health)

    @property
    def free_indices(self) -> frozenset[int] | None:
        """VF indices that are free; None if not published."""
        if self.vfs is None:
            return None
        return frozenset(vf.index for vf in self.vfs if vf.free)

    def index_of(self, address: str) -> int | None:
        """Return the index of a VF; None if not published."""
        for vf in self.vfs or ():
            if vf.address == address:
                return vf.index
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Publication:
    """All that one node says."""

    pools: tuple[Pool, ...] = ()
    omitted_pools: int = 0
    """Pools that found no room."""

    problem: str = ''
    """Why the node cannot tell, e.g. that its agent does not answer."""

    def pool_of(self, pf_address: str | None, vf_address: str) -> Pool | None:
        """Return the pool that a VF belongs to, or None.

        :raises PublicationError: it may be any of several of its PF.
        """
        for pool in self.pools:
            if pool.index_of(vf_address) is not None:
                return pool
        of_pf = [pool for pool in self.pools if pool.pf_address == pf_address]
        if len(of_pf) > 1:
            why = ('the lists of their VFs found no room'
                   if any(pool.vfs is None for pool in of_pf)
                   else 'none of them lists it')
            raise PublicationError(
                f'PF {pf_address} has {len(of_pf)} pools, and which of them '
                f'VF {vf_address} belongs to is not published: {why}')
        return of_pf[0] if of_pf else None


def encode(publication: Publication) -> str:
    """Return the text for a node's `stats`: at most MAX_BYTES of ASCII."""
    text = _dump(publication)
    if len(text) > MAX_BYTES:
        publication = dataclasses.replace(publication, pools=tuple(
            dataclasses.replace(pool, vfs=None)
            for pool in publication.pools))
        text = _dump(publication)
    while len(text) > MAX_BYTES and publication.pools:
        # With all of its PF's: one that stayed would pass for the only one.
        kept = tuple(
            pool for pool in publication.pools
            if pool.pf_address != publication.pools[-1].pf_address)
        publication = dataclasses.replace(
            publication, pools=kept, omitted_pools=publication.omitted_pools
            + len(publication.pools) - len(kept))
        text = _dump(publication)
    return text


def _dump(publication: Publication) -> str:
    kinds: dict[str, int] = {}
    identities: list[dict[str, Any]] = []
    pools = []
    for pool in publication.pools:
        digest = pool.identity.digest()
        if digest not in kinds:
            kinds[digest] = len(identities)
            identities.append(pool.identity.as_dict())
        entry: dict[str, Any] = {'pf': pool.pf_address, 'id': kinds[digest],
                                 'free': pool.free_vfs}
        if pool.vfs is not None:
            entry['vfs'] = [[vf.address, vf.index, int(vf.free)]
                            for vf in pool.vfs]
        if pool.health != health_module.UNKNOWN:
            entry['health'] = [pool.health.bad_pages,
                               pool.health.uncorrectable_errors]
        pools.append(entry)
    values: dict[str, Any] = {'v': VERSION, 'identities': identities,
                              'pools': pools}
    if publication.omitted_pools:
        values['omitted'] = publication.omitted_pools
    if publication.problem:
        values['problem'] = publication.problem[:200]
    return json.dumps(values, separators=(',', ':'), sort_keys=True)


def decode(text: object) -> Publication:
    """Read what a node published.

    :param text: the value under KEY in the node's `stats`.
    :raises PublicationError: it cannot be read; the message says where.
    """
    if not isinstance(text, str):
        raise PublicationError(f'{KEY}: {text!r:.80} is not text')
    if len(text) > MAX_BYTES:
        raise PublicationError(
            f'{KEY}: {len(text)} characters, more than {MAX_BYTES}')
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise PublicationError(f'{KEY}: {text!r:.80} is not JSON: '
                               f'{exc!s:.80}') from exc
    if not isinstance(values, dict):
        raise PublicationError(f'{KEY}: {text!r:.80} is not an object')
    version = values.get('v')
    if type(version) is not int or version != VERSION:
        raise PublicationError(
            f'{KEY}: schema version {version!r:.20} is not {VERSION}; are '
            'all hosts and the scheduler of one release?')
    kinds = []
    for number, value in enumerate(_list(values, 'identities')):
        try:
            kinds.append(identity.VFIdentity.from_dict(value))
        except identity.IdentityError as exc:
            raise PublicationError(
                f'{KEY}.identities[{number}]: {exc}') from exc
    pools = tuple(_pool(f'{KEY}.pools[{number}]', value, kinds)
                  for number, value in enumerate(_list(values, 'pools')))
    problem = values.get('problem', '')
    if not isinstance(problem, str):
        raise PublicationError(f'{KEY}.problem: {problem!r:.80} is not text')
    return Publication(
        pools, _number(f'{KEY}.omitted', values.get('omitted', 0), 1 << 16),
        problem)


def _list(values: dict[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list):
        raise PublicationError(f'{KEY}.{name}: {found!r:.80} is not a list')
    return found


def _number(where: str, value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise PublicationError(f'{where}: {value!r:.80} is not a number from '
                               f'0 to {most}')
    return value


def _name(where: str, value: object, pattern: re.Pattern[str],
          refused: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise PublicationError(f'{where}: {value!r:.80} is {refused}')
    return value


def _address(where: str, value: object) -> str:
    return _name(where, value, _ADDRESS, 'neither a PCI address '
                 '(dddd:bb:dd.f) nor the uuid of a mediated device')


def _parent(where: str, value: object) -> str:
    return _name(where, value, _PARENT,
                 'not the address or the name of a device')


def _pool(where: str, value: object,
          kinds: Sequence[_Identity]) -> Pool:
    if not isinstance(value, dict):
        raise PublicationError(f'{where}: {value!r:.80} is not an object')
    address = _parent(f'{where}.pf', value.get('pf'))
    number = _number(f'{where}.id', value.get('id'), len(kinds) - 1)
    free = _number(f'{where}.free', value.get('free'), _MAX_VFS)
    health = _health(f'{where}.health', value.get('health', [None, None]))
    if 'vfs' not in value:
        return Pool(address, kinds[number], free, health=health)
    entries = _list(value, 'vfs')
    if len(entries) > _MAX_VFS:
        raise PublicationError(f'{where}.vfs: {len(entries)} VFs, more than '
                               f'{_MAX_VFS}')
    vfs = tuple(_vf(f'{where}.vfs[{position}]', entry)
                for position, entry in enumerate(entries))
    pool = Pool.of(address, kinds[number], vfs, health)
    if pool.free_vfs != free:
        raise PublicationError(f'{where}.free: {free}, but {pool.free_vfs} '
                               'of its VFs are free')
    return pool


def _health(where: str, value: object) -> health_module.Health:
    if not isinstance(value, list) or len(value) != 2:
        raise PublicationError(f'{where}: {value!r:.80} is not '
                               '[bad pages, uncorrectable errors]')
    return health_module.Health(*(
        None if count is None else _number(where, count, 2 ** 53 - 1)
        for count in value))


def _vf(where: str, value: object) -> VF:
    if not isinstance(value, list) or len(value) != 3:
        raise PublicationError(f'{where}: {value!r:.80} is not '
                               '[address, index, free]')
    return VF(_address(where, value[0]), _number(where, value[1], 0xffff),
              bool(_number(where, value[2], 1)))
