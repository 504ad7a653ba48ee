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

"""How a check ends, and versions compared. Pure."""

import re
from typing import TypeAlias

from oslo_upgradecheck import upgradecheck

Result: TypeAlias = upgradecheck.Result
Code = upgradecheck.Code


def success(details: str) -> Result:
    return Result(Code.SUCCESS, details)


def warning(details: str) -> Result:
    return Result(Code.WARNING, details)


def failure(details: str) -> Result:
    return Result(Code.FAILURE, details)


def not_applicable() -> Result:
    return success('Not applicable: no AMD GPU with SR-IOV on this host.')


def older(version: str, than: tuple[int, ...]) -> bool:
    """Whether a version, such as `6.8.0-31-generic`, is below another."""
    parts = re.match(r'[0-9]+(?:\.[0-9]+)*', version)
    numbers = tuple(map(int, parts.group().split('.'))) if parts else ()
    return numbers + (0,) * (len(than) - len(numbers)) < than
