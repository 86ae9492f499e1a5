"""What a refusal must look like."""

import httpx


def check_problem(answer: httpx.Response, status: int, slug: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() - {"retry_after_s"} == {"type", "title", "status", "detail", "advice"}
    assert "retry-after" in answer.headers or status not in (429, 503)
    assert problem["status"] == status
    assert problem["type"].endswith(slug)
    assert problem["detail"].endswith(".")
    assert problem["advice"]
    assert "Traceback" not in answer.text
    return str(problem["detail"] + " " + problem["advice"])
