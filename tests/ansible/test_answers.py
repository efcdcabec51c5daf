"""Boxes' answers, handed over by Ansible as files (playbooks/tasks/answer.yml)."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import yaml
from ansible_bench import ROOT, Run

from moatvpn.fleet.playbooks import answer_path, read_answers

HOSTS = ("m0001.moats.example.net", "m0002.moats.example.net", "a" * 60 + ".example.net")


def test_each_box_hands_over_its_own_words(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "answers"
    directory.mkdir()
    said = 'echo \'{"version": "{{ "{{" }} 6 * 7 }}"}\''
    tasks = [
        {"ansible.builtin.shell": said, "register": "box", "check_mode": False},
        {"ansible.builtin.fail": {"msg": "lost"}, "when": f"inventory_hostname == '{HOSTS[1]}'"},
        {
            "ansible.builtin.include_tasks": str(ROOT / "playbooks" / "tasks" / "answer.yml"),
            "vars": {"moat_answer": "{{ box.stdout | from_json }}"},
        },
    ]
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": tasks,
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = run(
        "ansible-playbook",
        f"--inventory={','.join(HOSTS)}",
        "--connection=local",
        "--check",
        f"--extra-vars=moat_answers={directory}",
        "play.yml",
        ANSIBLE_INVENTORY_ENABLED="host_list",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    answers = read_answers(directory, HOSTS)
    # What looks like a template in an answer is a box's text, and stays that.
    assert answers.found == {HOSTS[n]: {"version": "{{ 6 * 7 }}"} for n in (0, 2)}
    assert answers.refused == {}
    for host in answers.found:
        assert stat.S_IMODE(answer_path(directory, host).stat().st_mode) == 0o600
