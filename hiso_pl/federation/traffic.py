"""Traffic: what the rounds so far would have cost a client to send and to receive."""

from __future__ import annotations

from hiso_pl.zeroth_order.record import Bits

BITS_PER_BYTE = 8
BYTES_PER_KB = 1024


class Traffic:
    r"""Adds up the bytes of a client over the rounds, in two ways of counting.

    .. math::
        \text{paper} \mathrel{+}= \text{up} + \text{down}
        \qquad
        \text{protocol} \mathrel{+}= \text{up} \, \tfrac{m}{M} + \text{down}

    The paper counts a client that takes part in every round, up and down: :math:`2 \cdot 4 \tau P` bytes for scalars of
    32 bits along shared directions. The protocol is what a deployment sends, averaged over the M clients: up what the
    m clients of the cohort send, down every round's aggregated scalars to each client once, as one that sat out fetches
    what it missed before it takes part again; where it takes the model instead, only the cohort's clients fetch it, and
    down counts :math:`m / M` times as well. Seeds are derived, not sent.

    Attributes:
        rounds: Rounds counted.
        paper_bytes: Bytes of a client by the paper's way.
        protocol_bytes: Bytes of a client by the protocol's way.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.paper_bytes = 0.0
        self.protocol_bytes = 0.0

    @property
    def paper_kb(self) -> float:
        """The paper's way in KB of 1024 bytes."""
        return self.paper_bytes / BYTES_PER_KB

    @property
    def protocol_kb(self) -> float:
        """The protocol's way in KB of 1024 bytes."""
        return self.protocol_bytes / BYTES_PER_KB

    def record(self, clients: int, cohort: int, bits: Bits) -> None:
        """Counts one round.

        A slot that is dropped later counts as well: its scalars were sent.

        Args:
            clients: Number of clients M.
            cohort: Clients in the cohort, m.
            bits: What the round costs a client.

        Raises:
            ValueError: If ``cohort`` is not in ``[1, clients]``, or a client sends or receives nothing.
        """
        if not 1 <= cohort <= clients:
            raise ValueError(f"cohort={cohort} must be in [1, clients={clients}]")
        if bits.up < 1 or bits.down < 1:
            raise ValueError(f"bits={bits} must be at least 1 each way")
        up, down = bits.up / BITS_PER_BYTE, bits.down / BITS_PER_BYTE
        self.rounds += 1
        self.paper_bytes += up + down
        self.protocol_bytes += up * cohort / clients + (down if bits.missed else down * cohort / clients)

    def state_dict(self) -> dict[str, int | float]:
        """The counters, as plain numbers."""
        return {"rounds": self.rounds, "paper_bytes": self.paper_bytes, "protocol_bytes": self.protocol_bytes}

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Goes on from counters saved before."""
        self.rounds = int(state["rounds"])
        self.paper_bytes = float(state["paper_bytes"])
        self.protocol_bytes = float(state["protocol_bytes"])
