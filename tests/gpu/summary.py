"""The short table that the command ends with."""

from collections.abc import Iterator, Mapping
from typing import Any

from .options import Stage


def lines(results: Mapping[Stage, Mapping[str, Any]], ended: Mapping[Stage, str]) -> Iterator[str]:
    """What each stage found, in a few lines."""
    yield ""
    for stage, found in results.items():
        state = "ok" if found.get("ok") and found.get("finished") else "NOT OK"
        yield f"{stage:<8} {state:<7} {ended[stage]}, {found.get('seconds', 0)} s"
        yield from (f"  error: {error}" for error in found.get("errors", ()))
        yield from _CONTENTS[stage](found)


def _right(found: Mapping[str, Any]) -> Iterator[str]:
    checks = found.get("checks", ())
    for check in checks:
        yield f"  {check['outcome']:<8} {check['check']} ({check['seconds']} s)"


def _fast(found: Mapping[str, Any]) -> Iterator[str]:
    for one in found.get("rates", ()):
        yield f"  {one['what']:<58} {one['images_per_second']:>12,.0f} images/s"
    for name, one in found.get("attainable", {}).items():
        share = "not measured" if one["share"] is None else f"{one['share']:.0%} of it"
        yield f"  {name}: attainable {one['images_per_second']:,.0f} images/s, ours {share}"
    if "times_the_plain_loop" in found:
        yield f"  student: {found['times_the_plain_loop']} times the plain loop"
    for name in found.get("left_out", ()):
        yield f"  no time left for {name}"
    for name, one in found.get("profiles", {}).items():
        yield (
            f"  {name}: {one['kernels_per_step']:.0f} kernels, {one['device_us_per_step']:.0f} of "
            f"{one['wall_us_per_step']:.0f} us a step, host share {one['host_share']:.2f}"
        )


def _table1(found: Mapping[str, Any]) -> Iterator[str]:
    for name in ("images", "dense", "brief", "whole"):
        if name in found:
            yield f"  {name}: " + ", ".join(f"{k} {v}" for k, v in found[name].items())


_CONTENTS = {"right": _right, "fast": _fast, "table1": _table1}
