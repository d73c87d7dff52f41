"""One pool as its leader has it: the commit protocol (docs/architecture.md) and the worker that goes round in it.

`worker` gathers, plans and applies, and is the only part that knows both the decisions and the writes. Below it:
`publisher` writes the pool's status, `news` takes in what was heard, `writing` writes what was decided about leases,
`fence` knows which writes may still arrive, `leases` asks the API server about one lease, `object` is the pool's own
object with its compare-and-swap, `memory` is what is known, `complaints` tells of what goes wrong.

Nothing is written without a look at whether this replica still leads the pool (`PoolObject.check`).
"""
