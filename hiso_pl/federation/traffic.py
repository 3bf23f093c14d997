"""Traffic: what the rounds so far would have cost a client to send and to receive."""

from __future__ import annotations

BYTES_PER_SCALAR = 4
BYTES_PER_KB = 1024


class Traffic:
    r"""Adds up the bytes of a client over the rounds, in two ways of counting.

    .. math::
        \text{paper} \mathrel{+}= 2 \cdot 4 \tau P
        \qquad
        \text{protocol} \mathrel{+}= 4 \tau P \, \tfrac{m}{M} + 4 \tau P

    The paper counts a client that takes part in every round, up and down. The protocol is what a deployment sends,
    averaged over the M clients: up the scalars of the m clients of the cohort, down every round's aggregated
    scalars to each client once, as one that sat out fetches what it missed before it takes part again.
    Seeds are derived, not sent.

    Attributes:
        rounds: Rounds counted.
        paper_bytes: Bytes of a client by the paper's way.
        protocol_bytes: Bytes of a client by the protocol's way.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.paper_bytes = 0
        self.protocol_bytes = 0.0

    @property
    def paper_kb(self) -> float:
        """The paper's way in KB of 1024 bytes."""
        return self.paper_bytes / BYTES_PER_KB

    @property
    def protocol_kb(self) -> float:
        """The protocol's way in KB of 1024 bytes."""
        return self.protocol_bytes / BYTES_PER_KB

    def record(self, clients: int, cohort: int, local_steps: int, directions: int) -> None:
        """Counts one round.

        A slot that is dropped later counts as well: its scalars were sent.

        Args:
            clients: Number of clients M.
            cohort: Clients in the cohort, m.
            local_steps: Local steps tau.
            directions: Directions P of each local step.

        Raises:
            ValueError: If ``cohort`` is not in ``[1, clients]``, or another number is below 1.
        """
        if not 1 <= cohort <= clients:
            raise ValueError(f"cohort={cohort} must be in [1, clients={clients}]")
        if local_steps < 1:
            raise ValueError(f"local_steps={local_steps} must be at least 1")
        if directions < 1:
            raise ValueError(f"directions={directions} must be at least 1")
        one_way = BYTES_PER_SCALAR * local_steps * directions
        self.rounds += 1
        self.paper_bytes += 2 * one_way
        self.protocol_bytes += one_way * cohort / clients + one_way

    def state_dict(self) -> dict[str, int | float]:
        """The counters, as plain numbers."""
        return {"rounds": self.rounds, "paper_bytes": self.paper_bytes, "protocol_bytes": self.protocol_bytes}

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Goes on from counters saved before."""
        self.rounds = int(state["rounds"])
        self.paper_bytes = int(state["paper_bytes"])
        self.protocol_bytes = float(state["protocol_bytes"])
