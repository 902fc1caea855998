# SPDX-License-Identifier: Apache-2.0
import os
import pwd
import time

import pytest

from globus_compute_endpoint.spawner import lookup
from globus_compute_endpoint.spawner.lookup import UserLookUp


def test_a_user_is_found_with_groups():
    me = pwd.getpwuid(os.getuid())
    user = UserLookUp(me.pw_name).finish()
    assert user is not None
    assert (user.uname, user.uid, user.home) == (me.pw_name, me.pw_uid, me.pw_dir)
    assert len(user.groups) == len(user.group_names) >= 1


def test_nobody_is_none():
    assert UserLookUp("there-is-no-such-user").finish() is None


def test_a_gecos_field_which_is_not_utf_8_can_be_passed_on(monkeypatch):
    me = pwd.getpwuid(os.getuid())
    broken = pwd.struct_passwd((*me[:4], "\udcff", *me[5:]))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: broken)
    user = UserLookUp(me.pw_name).finish()
    assert user is not None
    assert user.gecos == "\ufffd"


def test_a_database_which_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(lookup, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: time.sleep(60))
    look_up = UserLookUp("anyone")
    time.sleep(0.3)
    with pytest.raises(TimeoutError):
        look_up.finish()
