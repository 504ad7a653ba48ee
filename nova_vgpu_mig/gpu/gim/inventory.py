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

"""What there is: GPUs and VFs as the host library tells them, each time anew.

A GPU that fails to answer is left out and the rest are served: one broken
card must not take a host's others out of the scheduler's sight.
"""

from collections.abc import Iterator
import dataclasses
import logging
from typing import Any

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.gim import describe
from nova_vgpu_mig.gpu.gim import library as library_

LOG = logging.getLogger(__name__)

MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer of another release may end in."""


@dataclasses.dataclass(frozen=True, slots=True)
class VF:
    """A VF, and what GIM's scheduler and its guest say of it."""

    address: str
    index: int
    handle: Any
    state: contract.VFState | None
    usable: bool
    used_bytes: int | None
    guest_driver: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class GPU:
    address: str
    identity: identity.VFIdentity
    health: health.Health
    vfs: tuple[VF, ...]


class NothingAnswers(Exception):
    """There are GPUs, and none of them can be described; says why."""


def gpus(library: library_.Library) -> list[GPU]:
    """Return every GPU that has VFs and answers.

    :raises LibraryError: which GPUs there are is not told.
    :raises NothingAnswers: each of them failed.
    """
    found: list[GPU] = []
    failed: list[str] = []
    for handle in library.call('get_processor_handles'):
        try:
            gpu = _gpu(library, handle)
        except (library_.LibraryError, *MISSHAPEN) as exc:
            why = (str(exc) if isinstance(
                exc, library_.LibraryError | identity.IdentityError)
                   else f'an answer of AMD SMI has another shape than is '
                   f'documented: {exc!r}')
            LOG.warning('A GPU is left out, with its VFs: %s', why)
            failed.append(why)
            continue
        if gpu is not None:
            found.append(gpu)
    if failed and not found:
        raise NothingAnswers('; '.join(failed))
    return found


def _gpu(library: library_.Library, handle: Any) -> GPU | None:
    count = int(library.call('get_num_vf', handle)['num_vf_enabled'])
    if not count:
        return None
    address = str(library.call('get_gpu_device_bdf', handle)).lower()
    handles = [library.call('get_vf_handle_from_vf_index', handle, index)
               for index in range(count)]
    sizes = [library.call('get_vf_info', vf) for vf in handles]
    told = describe.Answers(
        asic=library.call('get_gpu_asic_info', handle),
        driver=library.call('get_gpu_driver_info', handle),
        num_vfs=count, vf=sizes[0],
        vbios=library.ask('get_gpu_vbios_info', handle),
        firmware=library.ask('get_fw_info', handle),
        profile=library.ask('get_partition_profile_info', handle),
        accelerator=library.ask('get_gpu_accelerator_partition_profile',
                                handle),
        memory=library.ask('get_gpu_memory_partition_config', handle),
        xgmi=library.ask('get_xgmi_fb_sharing_caps', handle))
    vfs = [_vf(library, vf, index) for index, vf in enumerate(handles)]
    return GPU(address, describe.identity_of(told), _health(library, handle),
               tuple(_alike(address, vfs, sizes)))


def _alike(address: str, vfs: list[VF],
           sizes: list[dict[str, Any]]) -> Iterator[VF]:
    """The VFs that are as the first one, whose identity all go by."""
    for vf, size in zip(vfs, sizes, strict=True):
        if size['fb']['fb_size'] == sizes[0]['fb']['fb_size']:
            yield vf
        else:
            LOG.warning(
                'VF %s is left out: it has %s MiB of frame buffer, and the '
                'first VF of GPU %s has %s; divide the GPU evenly',
                vf.address, size['fb']['fb_size'], address,
                sizes[0]['fb']['fb_size'])


def _health(library: library_.Library, handle: Any) -> health.Health:
    return describe.health_of(
        library.ask('get_gpu_bad_page_info', handle),
        library.ask('get_gpu_total_ecc_count', handle))


def _vf(library: library_.Library, handle: Any, index: int) -> VF:
    data = library.call('get_vf_data', handle)
    state = describe.state_of(data)
    # Without a guest driver there is nobody to be asked.
    guest = (library.ask('get_guest_data', handle)
             if state is contract.VFState.ACTIVE else None)
    return VF(str(library.call('get_vf_bdf', handle)).lower(), index, handle,
              state, describe.is_usable(data),
              describe.used_bytes_of(state, guest),
              describe.guest_driver_of(guest))
