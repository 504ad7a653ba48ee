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

"""The checks in their order, each with what it is about."""

import os
import pathlib

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck

from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.conf import vfio as vfio_conf
from nova_vgpu_mig.gpu.gim import library
from nova_vgpu_mig.status import agent
from nova_vgpu_mig.status import amd
from nova_vgpu_mig.status import hypervisor
from nova_vgpu_mig.status import kernel
from nova_vgpu_mig.status import machine as machine_
from nova_vgpu_mig.status import outcome
from nova_vgpu_mig.vmm import hypervisor as hypervisor_
from nova_vgpu_mig.vmm.libvirt import driver

_LIBVIRT = ('libvirtd', 'virtqemud', 'virsh')
_QEMU = ('qemu-system-x86_64', '/usr/libexec/qemu-kvm', 'qemu-kvm')


class Checks(upgradecheck.UpgradeCommands):  # type: ignore[misc]
    """What `nova-vgpu-mig-status upgrade check` looks at."""

    def __init__(self, conf: cfg.ConfigOpts,
                 machine: machine_.Machine | None = None,
                 hypervisor: hypervisor_.Hypervisor | None = None) -> None:
        """
        :param conf: read when a check runs, not before.
        :param hypervisor: another one than this host's libvirt, for tests.
        """
        for module in (agent_conf, libvirt_conf, vfio_conf):
            module.register_opts(conf)
        self._conf = conf
        self._machine = machine or machine_.Machine()
        self._hypervisor = hypervisor or driver.LibvirtHypervisor(conf)
        self._gpus = self._machine.gpus()

    def _journal(self) -> outcome.Result:
        path = str(self._conf[agent_conf.GROUP].journal)
        directory = pathlib.Path(os.path.abspath(path)).parent
        while not directory.exists():
            directory = directory.parent
        return agent.journal(path, str(directory),
                             directory.is_dir()
                             and os.access(directory, os.W_OK | os.X_OK))

    def _data_host(self) -> outcome.Result:
        return agent.data_host(str(self._conf[agent_conf.GROUP].data_host))

    def _libvirt(self) -> outcome.Result:
        return hypervisor.libvirt(self._machine.version(_LIBVIRT),
                                  bool(self._gpus), bool(self._uri()))

    def _uri(self) -> str:
        return str(self._conf[libvirt_conf.GROUP].uri)

    def _reached(self) -> outcome.Result:
        try:
            return hypervisor.reached(self._uri(),
                                      self._hypervisor.available())
        finally:
            self._hypervisor.close()

    def _qemu(self) -> outcome.Result:
        return hypervisor.qemu(self._machine.version(_QEMU),
                               bool(self._uri()))

    def _rights(self) -> outcome.Result:
        files = self._machine.vfio_files()
        command = str(self._conf[vfio_conf.GROUP].helper_command)
        asked = command and not all(files.values())
        return kernel.vfio_rights(
            files, command, self._machine.helper(command) if asked else '',
            bool(self._gpus or self._uri()))

    def _kernel(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        return kernel.release(self._machine.release)

    def _iommufd(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        return kernel.iommufd(self._machine.exists('dev/iommu'))

    def _dirty_tracking(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        return kernel.dirty_tracking(self._machine.iommus())

    def _gim(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        return amd.host_driver(
            self._machine.exists('sys/module/gim'), self._machine.text(
                'sys/module/gim/parameters/enable_live_migration'))

    def _vfio(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        vfs: dict[str, str] = {}
        for gpu in self._gpus:
            vfs |= self._machine.vfs(gpu)
        return amd.vfio_driver(self._machine.exists(
            f'sys/bus/pci/drivers/{amd.VFIO_DRIVER}'), vfs)

    def _amd_smi(self) -> outcome.Result:
        if not self._gpus:
            return outcome.not_applicable()
        try:
            found = library.find()
        except library.NotThere as exc:
            return amd.library(str(exc))
        try:
            return amd.library('', len(
                found.ask('get_processor_handles') or ()))
        except library.LibraryError as exc:
            return amd.library(str(exc))
        finally:
            found.close()

    _upgrade_checks = (
        ('Journal of the agent', _journal),
        ('Address of the agent', _data_host),
        ('libvirt', _libvirt),
        ('libvirt, for the agent', _reached),
        ('QEMU', _qemu),
        ('Rights to VFIO devices', _rights),
        ('AMD: kernel', _kernel),
        ('AMD: iommufd', _iommufd),
        ('AMD: dirty tracking of the IOMMU', _dirty_tracking),
        ('AMD: GIM', _gim),
        ('AMD: VFIO driver', _vfio),
        ('AMD: AMD SMI', _amd_smi),
    )
