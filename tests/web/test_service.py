from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from polarpix.errors import InputError
from polarpix.web.limits import Limits, RefusedError
from polarpix.web.service import Service, named


def stand_in(name: str, task: str) -> Any:
    return SimpleNamespace(run=SimpleNamespace(name=name, task=task))


def test_networks_are_called_by_their_pages_and_told_apart() -> None:
    found = named([stand_in("a", "pose"), stand_in("b", "seg"), stand_in("b", "pose"), stand_in("b", "pose")])
    assert list(found) == ["a", "b-seg", "b-pose", "b-pose-2"]


def test_the_first_network_is_asked_when_none_is_named(service: Service) -> None:
    assert service.find(None)[0] == "tiny-pose"
    assert service.find("tiny-seg")[1].run.task == "seg"
    with pytest.raises(RefusedError, match="choose one of tiny-pose, tiny-seg") as error:
        service.find("x" * 1000)
    assert error.value.status == 404
    assert len(str(error.value)) < 160


def test_a_job_reads_judges_and_makes(service: Service, photo: Callable[..., bytes]) -> None:
    rows = [[0.0, 0.0, 30.0, 30.0]]
    job = service.job(photo, "a.png", None, rows, lambda predictor, image, boxes: (predictor, image.shape, boxes))
    assert job() == (service.predictors["tiny-pose"], (40, 60, 3), rows)
    with pytest.raises(RefusedError, match="takes none") as error:
        service.job(photo, "a.png", "tiny-seg", rows, lambda *_: None)
    assert error.value.status == 422


def test_what_a_network_refuses_is_a_bad_request(service: Service, photo: Callable[..., bytes]) -> None:
    def refuse(*_: object) -> None:
        raise InputError("box lies outside")

    with pytest.raises(RefusedError, match="box lies outside") as error:
        service.job(photo, "a.png", None, None, refuse)()
    assert error.value.status == 422


def test_a_service_without_networks_is_refused(service: Service) -> None:
    with pytest.raises(InputError, match="at least one"):
        Service({}, Limits(), service.folder)
