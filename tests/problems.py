"""What a refusal must look like."""

import httpx


def check_problem(answer: httpx.Response, status: int, slug: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "advice"}
    assert problem["status"] == status
    assert problem["type"].endswith(slug)
    assert problem["detail"].endswith(".")
    assert problem["advice"]
    assert "Traceback" not in answer.text
    return str(problem["detail"] + " " + problem["advice"])
