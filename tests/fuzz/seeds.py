"""Write the first inputs of both corpora: real messages, and every bomb we know."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1], HERE.parents[1] / "platform", HERE.parent / "support"):
    sys.path.insert(0, str(folder))


from bombs import BOMBS, JSON_BOMBS  # noqa: E402
from medveil.identity import Identity, sign_request  # noqa: E402
from medveil.messages import Approval, AuditHead, Enrol, PlanOffer, PlanOffers, Refusal, Wire, Work  # noqa: E402
from medveil.tensors import to_safetensors  # noqa: E402
from privacy.secagg.messages import (  # noqa: E402
    Abort,
    Advertise,
    Advertised,
    Agree,
    Certificate,
    Certificates,
    Committed,
    Published,
    Quorum,
    Ready,
    Shares,
    Survivors,
    Unmask,
    Upload,
)
from world import SPEC, START, make_plan, make_study  # noqa: E402

SMALL = 2_048
B32, B64 = bytes(32), bytes(64)
ADVERTISE = Advertise(sender=1, channel_key=B32, mask_key=B32)
HEAD = AuditHead(number=1, hash=B32, key=B32, signature=B64)
SENT: tuple[Wire, ...] = (
    Enrol(token="a" * 32),
    Approval(signature=B64),
    ADVERTISE,
    Shares(
        sender=1, commitment=B32, check_commitment=B32, share_commitments={1: B32}, sealed={2: bytes(114)}
    ),
    Ready(sender=1),
    Upload(sender=1, committed_hash=B32, segments=(B32,)),
    Agree(sender=1, committed_hash=B32, survivors=(1, 2, 3)),
    Unmask(sender=1, self_shares={1: bytes(33)}, key_shares={2: bytes(33)}),
    Abort(sender=1),
)
VIEWS: tuple[Wire, ...] = (
    Published(
        round=1,
        attempt=1,
        transcript=B32,
        members=(1, 2),
        survivors=(1, 2),
        signatures={1: B64},
        sum_hash=B32,
    ),
    Advertised(messages=(ADVERTISE,)),
    Committed(members=(1, 2), inbox={2: bytes(114)}, dealt={2: B32}),
    Survivors(members=(1, 2)),
    Quorum(signatures={1: B64}),
    Certificates(certificates=(Certificate(round=1, attempt=1, signatures={1: B64}),)),
)
REQUESTS = (
    b"GET /v1/plans 1\n",
    b"GET {at}/work 1\n",
    b"GET {at}/work?seen=x&wait_s=1&sitting_out=1.1 1\n",
    b"GET {at}/status 1\n",
    b"GET {at}/versions/1/proof 1\n",
    b"GET {at}/versions/0001/sum 1\n",
    b"GET /openapi.json 1\n",
    b"GET /healthz -\n",
    b"POST {enrol} n\n" + Enrol(token="a" * 32).to_bytes(),
    b"POST {enrol} n\n" + BOMBS["shared references in a map"],
    b"POST {at}/approval 1\n" + Approval(signature=B64).to_bytes(),
    b"POST {at}/refusal 1\n" + Refusal(kind="withdrawn", reason="no", signature=B64).to_bytes(),
    b"POST {at}/rounds/1/attempts/1/shares 1\n" + SENT[3].to_bytes(),
    b"POST {at}/rounds/1/attempts/1/advertise 2\n" + ADVERTISE.to_bytes(),
    b"POST {at}/rounds/1/attempts/1/upload 2\n" + SENT[5].to_bytes(),
    b"PUT {at}/rounds/1/attempts/1/segments/0 1\n" + bytes(8),
)


def aggregator() -> list[bytes]:
    """Inputs of the aggregator's door."""
    seeds = [b"\x00" + bomb for bomb in BOMBS.values()]
    proof = sign_request(Identity.generate("one"), "GET", "/", b"", now=1_700_000_000).headers().values()
    seeds.append(b"\x01" + "\r\n".join(proof).encode())
    seeds += [b"\x02" + request for request in REQUESTS]
    seeds += [bytes([3 + number]) + sent.to_bytes() for number, sent in enumerate(SENT)]
    return [*seeds, bytes([3 + len(SENT)]) + f"1.2.{'00' * 32}.{'00' * 64}".encode()]


def node() -> list[bytes]:
    """Inputs of the node's door."""
    plan = make_plan([Identity.generate(f"h{i}") for i in range(3)], make_study())
    text = plan.model_dump_json()
    offer = PlanOffer(plan=text, admin_key=B32, admin_signature=B64, approvals={"h1": B64})
    running = Work(
        mark="1 1 share", status="running", round=1, attempt=1, payload=VIEWS[1].to_bytes(), head=HEAD
    )
    seeds = [b"\x00" + bomb for bomb in BOMBS.values()]
    seeds += [b"\x01" + bomb.encode() for bomb in JSON_BOMBS.values()]
    seeds += [b"\x02" + running.to_bytes(), b"\x02" + Work(mark="x", status="waiting").to_bytes()]
    seeds += [b"\x03" + PlanOffers(offers=(offer,), head=HEAD).to_bytes(), b"\x04" + text.encode()]
    seeds += [b'\x05{"code": "wrong-round", "title": "Too late.", "detail": "\\u001b[2J"}']
    seeds += [b"\x06" + to_safetensors(START, SPEC), b"\x07" + b"100\ngzip", b"\x07" + b"60"]
    return seeds + [bytes([8 + number]) + view.to_bytes() for number, view in enumerate(VIEWS)]


def main() -> None:
    """Write them, each under its hash."""
    for door, seeds in (("aggregator", aggregator()), ("node", node())):
        folder = HERE / "corpus" / door
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            if len(seed) <= SMALL or seed[:1] in (b"\x03", b"\x04"):
                (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main()
