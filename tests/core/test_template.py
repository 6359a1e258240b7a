"""Templates: the rules of the original documents, and what a mistake is answered with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipclusterz.core.template import TemplateError, Value, render, used
from ipclusterz.error import LaunchError

NAMES: dict[str, Value] = {
    "n": 128,
    "queue": "parallel",
    "walltime": None,
    "profile_dir": "/home/user/.ipython/cluster_pbs",
    "cluster_id": "",
    "engine_command": "/usr/bin/python3 -m engines",
    "per_node": "4",
}

# The template of the original document, with today's command.
ORIGINAL = """\
#PBS -N ipython
#PBS -j oe
#PBS -l walltime=00:10:00
#PBS -l nodes=${n/4}:ppn=4
#PBS -q parallel

cd $$PBS_O_WORKDIR
export PATH=$$HOME/usr/local/bin
export PYTHONPATH=$$HOME/usr/local/lib/python2.4/site-packages
/usr/local/bin/mpiexec -n ${n} ipengine --logfile=$$PBS_O_WORKDIR/ipengine
"""


def test_the_template_of_the_original_document() -> None:
    made = render(ORIGINAL, NAMES)
    assert made == ORIGINAL.replace("${n/4}", "32").replace("${n}", "128").replace("$$", "$")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", ""),
        ("no dollar {} { n } {n:3}", "no dollar {} { n } {n:3}"),
        ("${n}", "128"),
        ("${ n }", "128"),
        ("$n", "128"),
        ("$n-$queue.", "128-parallel."),
        ("${n}x$$n", "128x$n"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("$$$n", "$128"),
        ("$${HOME}", "${HOME}"),
        ("$${PATH%%:*} $$(date) $$1 $$?", "${PATH%%:*} $(date) $1 $?"),
        ("${queue}", "parallel"),
        ("a${cluster_id}b", "ab"),
        ("${n/4}", "32"),
        ("${n//5}", "25"),
        ("${n%5}", "3"),
        ("${n+1}", "129"),
        ("${n - 1}", "127"),
        ("${-n+200}", "72"),
        ("${2*n}", "256"),
        ("${(n+2)*2}", "260"),
        ("${n/5*5}", "128"),
        ("${n/per_node}", "32"),
        ("${ceil(n/5)}", "26"),
        ("${floor(n/5)}", "25"),
        ("${ceil(n/4)}", "32"),
        ("${min(n, 16)}", "16"),
        ("${max(n/4, 1, 3)}", "32"),
        ("${ceil(max(n/5, 1))}", "26"),
        ("${12}", "12"),
    ],
)
def test_what_a_template_becomes(text: str, made: str) -> None:
    # A name of ours stands beside, so that braces alone are no foreign style.
    assert render("$n " + text, NAMES) == "128 " + made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${n/5}", r"\$\{n/5\} leaves a remainder \(128/5\); write \$\{ceil\(n/5\)\}"),
        ("${n/3/7}", r"leaves a remainder \(128/21\)"),
        ("${n/0}", r"\$\{n/0\} divides by zero"),
        ("${n%0}", r"divides by zero"),
        ("${n//(n-n)}", r"divides by zero"),
        ("${qeue}", r"there is no name 'qeue'.*the nearest is \$\{queue\}"),
        ("$HOME", r"no name 'HOME'.*a variable of the shell is written \$\$HOME"),
        ("${HOME}", r"no name 'HOME'"),
        ("${HOME:-x}", r"\$\{HOME:-x\} is no expression"),
        ("${n*m}", r"there is no name 'm'"),
        ("${}", r"\$\{\} is no expression"),
        ("${n n}", r"\$\{n n\} is no expression"),
        ("${n", r"\$\{n\.\.\. is not closed on its line"),
        ("$(date)", r"\$\(date\): a dollar sign for the shell is written \$\$.*\$\$\(date\)"),
        ("$1", r"written \$\$, here \$\$1"),
        ("cost: 5$", r"written \$\$"),
        ("${queue*2}", r"queue is 'parallel', which is no whole number"),
        ("${cluster_id+1}", r"cluster_id is '', which is no whole number"),
        ("${walltime}", r"\$\{walltime\} has no value: give --walltime="),
        ("${2**9}", r"'2 \*\* 9' is not allowed"),
        ("${n.real}", r"'n.real' is not allowed"),
        ("${'a'*9}", r"\"'a'\" is not allowed"),
        ("${1.5*n}", r"'1.5' is not allowed"),
        ("${True+1}", r"'True' is not allowed"),
        ("${[n][0]}", r"'\[n\]\[0\]' is not allowed"),
        ("${n if n else 1}", r"is not allowed"),
        ("${n<<40}", r"'n << 40' is not allowed"),
        ("${exit(3)}", r"exit\(\) is not there; ceil\(x\)"),
        ("${ceil(n, 2)}", r"ceil\(\) is not there"),
        ("${min()}", r"min\(\) is not there"),
        ("${__import__('os').system('x')}", r"is not allowed"),
        ("${ceil(x=n)}", r"is not allowed"),
        ("${min(*n)}", r"is not allowed"),
        ("${(lambda: 1)()}", r"is not allowed"),
        ("${999999999*999999999}", r"becomes too large"),
        ("${" + "(" * 150 + "n" + ")" * 150 + "}", r"is no expression"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as raised:
        render(f"one $n\ntwo\nthree {text}\nfour", NAMES, "the template")
    assert str(raised.value).startswith("the template, line 3: ")
    assert isinstance(raised.value, LaunchError)


def test_the_file_is_named() -> None:
    with pytest.raises(
        TemplateError, match=r"^/home/me/pbs.template, line 1: there is no name"
    ):
        render("$m", NAMES, "/home/me/pbs.template")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("#PBS -l nodes={n}\n", r"\{n\} is ipyparallel's way to write it; here it is \$\{n\}"),
        ("#PBS -l nodes={n/4}:ppn=4\n", r"here it is \$\{n/4\}"),
        ("#PBS -l nodes={n//4}\n", r"here it is \$\{n//4\}"),
        ("cd $HOME\n{program_and_args}\n", r"line 2: .*here it is \$\{engine_command\}"),
        ("{cluster_dir}", r"here it is \$\{profile_dir\}"),
    ],
)
def test_the_style_of_a_peer_is_recognised(text: str, ours: str) -> None:
    with pytest.raises(TemplateError, match=ours):
        render(text, NAMES, "pbs.template")


def test_braces_beside_names_of_ours_are_the_shells() -> None:
    assert render("awk '{n}' ${n}", NAMES) == "awk '{n}' 128"
    assert render("awk '{print}' f", NAMES) == "awk '{print}' f"
    assert render("echo $${n}", NAMES) == "echo ${n}"


def test_the_names_that_a_template_uses() -> None:
    assert used("${n/4} $queue $$HOME ${ceil(n/m)} ${ x }") == {"n", "m", "queue", "x"}
    assert used("") == set()


@given(st.text(alphabet="${}n/4 ()*'ac\n", max_size=40))
def test_no_text_does_anything_but_render_or_explain(text: str) -> None:
    try:
        made = render(text, NAMES, "f")
    except TemplateError as error:
        assert str(error).startswith("f, line ")
    else:
        assert isinstance(made, str)


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_division_is_exact(n: int, by: int) -> None:
    names: dict[str, Value] = {"n": n, "by": by}
    assert render("${ceil(n/by)} ${floor(n/by)}", names) == f"{-(-n // by)} {n // by}"
    if n % by:
        with pytest.raises(TemplateError, match="leaves a remainder"):
            render("${n/by}", names)
    else:
        assert render("${n/by}", names) == str(n // by)
