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

"""The client's side of the agents' RPC.

Used by the driver extension in nova-compute, by agents among themselves and
by the CLI. It loads no part of an agent, and neither eventlet nor a thread
pool, because nova-compute imports it.

A caller gets errors of `agent.errors` only: what an agent raised, in its own
class and without the remote traceback in the text, AgentUnreachable, or
Unexpected for all else, such as an answer of a newer release that this one
cannot read. Nova's threads would turn any other class into a VM in ERROR. The
transport is always our own: one that Nova has made would turn our errors
into RemoteError, as it does not know their module.
"""

from collections.abc import Mapping
import importlib
from typing import Any

from oslo_config import cfg
from oslo_context import context as oslo_context
import oslo_messaging
from oslo_versionedobjects import exception as oslo_versioned

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record

TOPIC = 'vgpu_mig_agent'
EXCHANGE = 'nova_vgpu_mig'
"""Named, so that it is the same whatever `control_exchange` the caller has."""

VERSION = '1.1'

SEND_RETRIES = 2
"""Of a message that the bus does not take. Without a bound a caller would
wait for the broker for ever, whatever its time-out."""

_CONTEXT_KEYS = ('request_id', 'global_request_id', 'user_id', 'project_id')


class Serializer(objects.VgpuMigSerializer):
    """Objects, and of a context only what the agents' logs need.

    Nova's context holds the user's token; an agent has no use for it, so it
    never leaves nova-compute.
    """

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        values = ctxt if isinstance(ctxt, Mapping) else ctxt.to_dict()
        return {key: values.get(key) for key in _CONTEXT_KEYS}

    def deserialize_context(self, ctxt: dict[str, Any]
                            ) -> oslo_context.RequestContext:
        return oslo_context.RequestContext.from_dict(ctxt)


def _adopt_options(conf: cfg.ConfigOpts) -> None:
    """Give `conf` what oslo.messaging reads but registers elsewhere.

    Its metrics and, since release 18, its tracing register their groups with
    the global ConfigOpts only, and then read them from the one they get.
    """
    for group in ('oslo_messaging_metrics', 'oslo_messaging_tracing'):
        name = f'oslo_messaging._{group.removeprefix("oslo_messaging_")}'
        try:
            module = importlib.import_module(f'{name}.client')
        except ImportError:
            continue
        conf.register_opts(getattr(module, group, ()), group)


def get_transport(conf: cfg.ConfigOpts,
                  url: str | None = None) -> oslo_messaging.Transport:
    """Return a transport that can rebuild the agents' errors.

    :param url: instead of the `transport_url` of `conf`.
    """
    _adopt_options(conf)
    return oslo_messaging.get_rpc_transport(
        conf, url=url, allowed_remote_exmods=[errors.__name__])


class AgentAPI:
    """Calls to the agent of a host.

    Each method takes the caller's context and the compute manager's host
    first. Each raises errors.AgentUnreachable when there is no answer in
    time, errors.VersionTooOld when `rpc_version_cap` forbids the call, and
    the errors.AgentError that the agent raised.

    API version history:

    * 1.0 - Initial version.
    * 1.1 - guest_state; a request's VF may be a mediated device.
    """

    def __init__(self, conf: cfg.ConfigOpts,
                 transport: oslo_messaging.Transport | None = None,
                 url: str | None = None) -> None:
        agent_conf.register_opts(conf)
        self._options = conf[agent_conf.GROUP]
        self._own_transport = transport is None
        self._transport = (get_transport(conf, url) if transport is None
                           else transport)
        target = oslo_messaging.Target(exchange=EXCHANGE, topic=TOPIC,
                                       version='1.0')
        self._client = oslo_messaging.get_rpc_client(
            self._transport, target, serializer=Serializer(),
            version_cap=self._options.rpc_version_cap, retry=SEND_RETRIES)

    def close(self) -> None:
        """Drop the transport, unless it was handed in."""
        if self._own_transport:
            self._transport.cleanup()

    def _call(self, ctxt: Any, host: str, version: str, timeout: int,
              method: str, **args: Any) -> Any:
        try:
            return self._send(ctxt, host, version, timeout, method, args)
        except errors.AgentError:
            raise
        except oslo_versioned.IncompatibleObjectVersion as exc:
            raise errors.Unexpected(
                f'the agent of host {host} is newer and answers {method} in '
                f'a form that is not known here ({exc}): upgrade '
                f'nova-vgpu-mig on this host') from exc
        except Exception as exc:
            raise errors.Unexpected(
                f'the call {method} to the agent of host {host} failed: '
                f'{type(exc).__name__}: {exc}') from exc

    def _send(self, ctxt: Any, host: str, version: str, timeout: int,
              method: str, args: dict[str, Any]) -> Any:
        if not self._client.can_send_version(version):
            raise errors.VersionTooOld(
                f'the call {method} needs version {version} of the agents\' '
                f'RPC, but [{agent_conf.GROUP}] rpc_version_cap is '
                f'{self._options.rpc_version_cap}: upgrade the agents, then '
                f'remove that option')
        client = self._client.prepare(server=host, version=version,
                                      timeout=timeout)
        try:
            return client.call(ctxt, method, **args)
        except oslo_messaging.MessagingTimeout as exc:
            raise errors.AgentUnreachable(
                f'the agent of host {host} did not answer {method} within '
                f'{timeout} s: check on {host} that nova-vgpu-mig-agent runs '
                f'and that its [{agent_conf.GROUP}] host is {host!r}, and '
                f'that both ends have the same transport_url') from exc
        except (oslo_messaging.MessageDeliveryFailure,
                oslo_messaging.MessageUndeliverable) as exc:
            raise errors.AgentUnreachable(
                f'the agent of host {host} can\'t be reached for {method}: '
                f'{exc}; check that the message bus of transport_url is up') \
                from exc
        except oslo_messaging.RemoteError as exc:
            raise errors.Unexpected(
                f'the agent of host {host} failed in {method}: '
                f'{exc.exc_type}: {exc.value}; see the agent\'s log on '
                f'{host}') from exc
        except errors.AgentError as exc:
            # oslo.messaging has swapped in a class whose text is the remote
            # traceback; the class that was raised is behind it.
            original = type(exc).__mro__[1]
            if type(exc).__module__.endswith('_Remote'):
                raise original(*exc.args) from None
            raise

    def _read(self, ctxt: Any, host: str, method: str, **args: Any) -> Any:
        return self._call(ctxt, host, '1.0', self._options.rpc_timeout,
                          method, **args)

    def _step(self, ctxt: Any, host: str, method: str, **args: Any) -> Any:
        return self._call(ctxt, host, '1.0', self._options.step_timeout,
                          method, **args)

    def _record(self, values: dict[str, Any] | None
                ) -> record.MigrationRecord | None:
        return (None if values is None
                else record.MigrationRecord.from_dict(values))

    # Reading

    def describe(self, ctxt: Any, host: str,
                 timeout: int | None = None) -> objects.HostDescription:
        """Pools fresh from the GPU drivers, versions, and data address.

        :param timeout: seconds, instead of `rpc_timeout`.
        """
        result: objects.HostDescription = self._call(
            ctxt, host, '1.0', timeout or self._options.rpc_timeout,
            'describe')
        return result

    def plan(self, ctxt: Any, host: str, instance_uuid: str,
             vf_address: str, limit_ms: int | None) -> dict[str, Any]:
        """Ask a source what a move of the VF would take.

        :returns: bytes, seconds, downtime_ms, limit_ms, fits, reason.
        :raises errors.VFNotFound: no such VF on that host.
        :raises errors.Refused: it can't be moved now.
        """
        result: dict[str, Any] = self._read(
            ctxt, host, 'plan', instance_uuid=instance_uuid,
            vf_address=vf_address, limit_ms=limit_ms)
        return result

    def get(self, ctxt: Any, host: str, migration_uuid: str | None = None,
            instance_uuid: str | None = None,
            role: phases.Role | None = None) -> record.MigrationRecord:
        """Return the record of a move; by instance the newest one.

        :raises errors.MigrationNotFound: the journal there has none.
        """
        return record.MigrationRecord.from_dict(self._read(
            ctxt, host, 'get', migration_uuid=migration_uuid,
            instance_uuid=instance_uuid, role=role and str(role)))

    def records(self, ctxt: Any, host: str) -> list[dict[str, Any]]:
        """Return all moves that the host's journal knows, newest first.

        Each entry: `record` (MigrationRecord.as_dict()) and `state`, that
        of the journal.
        """
        result: list[dict[str, Any]] = self._read(ctxt, host, 'records')
        return result

    def ownership(self, ctxt: Any, host: str, migration_uuid: str) -> str:
        """Return the journal state of a source: who may run the VF.

        :raises errors.MigrationNotFound: the journal there has none.
        """
        return str(self._read(ctxt, host, 'ownership',
                              migration_uuid=migration_uuid))

    def guest_state(self, ctxt: Any, host: str,
                    instance_uuid: str) -> dict[str, Any]:
        """What the hypervisor of a host has of a guest.

        :returns: vmm.hypervisor.View.as_dict(), and `now`, epoch seconds by
            the clock of that host when it looked.
        :raises errors.DeviceFailed: it can't be asked now.
        """
        result: dict[str, Any] = self._call(
            ctxt, host, '1.1', self._options.rpc_timeout, 'guest_state',
            instance_uuid=instance_uuid)
        return result

    # The steps of a move; each may be repeated.

    def claim(self, ctxt: Any, host: str,
              request: objects.VFMigrationRequest
              ) -> record.MigrationRecord:
        """Destination: reserve the VF, with a deadline.

        :raises errors.VFTaken: it is not free.
        :raises errors.Incompatible: compared again, it could not take it.
        """
        return record.MigrationRecord.from_dict(
            self._step(ctxt, host, 'claim', request=request))

    def prepare(self, ctxt: Any, host: str,
                migration_uuid: str) -> dict[str, Any]:
        """Destination: device RESUMING; return the offer for the source.

        :returns: migration.destination.Offer as a dictionary.
        """
        result: dict[str, Any] = self._step(ctxt, host, 'prepare',
                                            migration_uuid=migration_uuid)
        return result

    def prepare_source(self, ctxt: Any, host: str,
                       request: objects.VFMigrationRequest
                       ) -> record.MigrationRecord:
        """Source: note the move in the journal.

        :raises errors.MigrationConflict: another one of this VM goes on.
        """
        return record.MigrationRecord.from_dict(
            self._step(ctxt, host, 'prepare_source', request=request))

    def start(self, ctxt: Any, host: str,
              instance_uuid: str) -> record.MigrationRecord:
        """Source: begin the transfer and answer at once; poll get()."""
        return record.MigrationRecord.from_dict(
            self._step(ctxt, host, 'start', instance_uuid=instance_uuid))

    def abort(self, ctxt: Any, host: str,
              instance_uuid: str) -> record.MigrationRecord:
        """Source: go back, if the VF has not been given up yet.

        :raises errors.Refused: it has; the move can only be completed.
        """
        return record.MigrationRecord.from_dict(
            self._step(ctxt, host, 'abort', instance_uuid=instance_uuid))

    def finish(self, ctxt: Any, host: str, migration_uuid: str,
               role: phases.Role, timeout: int | None = None
               ) -> record.MigrationRecord | None:
        """Release what a completed move still holds; None if unknown.

        :param timeout: seconds, instead of `step_timeout`; the agent goes
            on with it all the same.
        """
        return self._record(self._call(
            ctxt, host, '1.0', timeout or self._options.step_timeout,
            'finish', migration_uuid=migration_uuid, role=str(role)))

    def rollback(self, ctxt: Any, host: str, migration_uuid: str,
                 role: phases.Role, timeout: int | None = None
                 ) -> record.MigrationRecord | None:
        """Undo a move that Nova has given up; None if unknown.

        :param timeout: as for finish().
        :raises errors.Refused: the VF is the destination's already.
        """
        return self._record(self._call(
            ctxt, host, '1.0', timeout or self._options.step_timeout,
            'rollback', migration_uuid=migration_uuid, role=str(role)))

    def commit(self, ctxt: Any, host: str,
               migration_uuid: str) -> dict[str, Any]:
        """Tell a destination that its source has given the VF up.

        The destination believes the source's journal only and asks it.

        :returns: `state`, that of the destination's journal afterwards,
            and `outcome` and `reason`, those of its record: OWNED is the
            right to run, and only the outcome says that the VF has run.
        """
        result: dict[str, Any] = self._step(ctxt, host, 'commit',
                                            migration_uuid=migration_uuid)
        return result

    def resolve(self, ctxt: Any, host: str, migration_uuid: str,
                role: phases.Role, action: str,
                dry_run: bool = False) -> dict[str, Any]:
        """Decide a move that could not decide itself.

        :param action: 'auto', 'run' or 'drop'.
        :returns: `done` and `explanation`; with `dry_run`, nothing is done.
        :raises errors.Refused: it would break an invariant, and why.
        """
        result: dict[str, Any] = self._step(
            ctxt, host, 'resolve', migration_uuid=migration_uuid,
            role=str(role), action=action, dry_run=dry_run)
        return result
