"""The end of a job: every part checked, then manifest, ``_SUCCESS`` and outcome."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from storage import keys
from storage.errors import ObjectNotFound, ScoringError, describe
from storage.models.manifest import digest
from storage.objects.base import ObjectStore, create_once
from tasks.engine import Engine, end_job, ended, results
from tasks.part import check_receipt
from tasks.plan import Plan
from tasks.spec import Outcome, State

_RECEIPT_THREADS = 16


def finalize(engine: Engine, job_id: str) -> None:
    """Check every part and write manifest, ``_SUCCESS`` and outcome, in that order; harmless when run again."""
    if ended(engine, job_id):
        return
    job, plan, plan_sha256 = engine.documents(job_id)
    store, folder = results(engine.buckets, job)
    progress = engine.ledger.progress(job_id)
    failures = {str(part): reason for part, reason in progress.failures.items()} if progress else {}
    with ThreadPoolExecutor(_RECEIPT_THREADS, thread_name_prefix="receipt") as pool:
        entries = list(
            pool.map(lambda n: _entry(store, folder, plan, plan_sha256, n, failures), range(len(plan.parts)))
        )
    written = [entry for entry in entries if entry is not None]
    rows = sum(entry["rows"] for entry in written)
    rejected = sum(entry["rejected"] for entry in written)
    state: State = "partial" if rejected else "succeeded"
    error = ""
    if failures:
        part, reason = min(failures.items(), key=lambda item: int(item[0]))
        state, error = "failed", f"{len(failures)} of {len(plan.parts)} parts failed; part {part}: {reason}"
    elif rejected > job.spec.budget(plan.rows):
        state, error = "failed", f"{rejected} of {plan.rows} rows were rejected, allowed are {job.spec.max_rejected}"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(job.submitted)).total_seconds()
    if state != "failed":
        manifest = {"job_id": job_id, "model": job.model.ref, "manifest_sha256": job.model.manifest_sha256,
                    "rows": rows, "rejected": rejected, "warnings": list(plan.warnings), "parts": written}  # fmt: skip
        body = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()
        create_once(store, keys.results_manifest(folder), body)
        summary = {"job_id": job_id, "model": job.model.ref, "rows": rows, "rejected": rejected,
                   "parts": len(written), "manifest_sha256": digest(body)}  # fmt: skip
        create_once(store, keys.success(folder), json.dumps(summary, sort_keys=True).encode())
    end_job(
        engine,
        job_id,
        Outcome(state=state, rows=rows, rejected=rejected, parts=len(plan.parts), seconds=seconds, error=error,
                failures=failures),
    )  # fmt: skip


def _entry(
    store: ObjectStore, folder: str, plan: Plan, plan_sha256: str, part: int, failures: dict[str, str]
) -> dict[str, Any] | None:
    key = keys.result_part(folder, part)
    try:
        info = store.head(key)
        rows, rejected = check_receipt(info.metadata, plan_sha256, part, store.uri(key))
    except (ObjectNotFound, ScoringError) as error:
        failures.setdefault(str(part), describe(error))
        return None
    if rows + rejected != plan.parts[part].rows:
        failures[str(part)] = f"has {plan.parts[part].rows} rows, scored {rows} and rejected {rejected}"
    source = [{"key": s.key, "etag": s.etag, "first_row": s.first_row, "rows": s.rows} for s in plan.parts[part].slices]
    return {"key": key, "rows": rows, "rejected": rejected, "bytes": info.size, "sha256": info.metadata["sha256"],
            "source": source}  # fmt: skip
