"""A body as it comes, bit by bit: in the memory from which it will be lent, or in this process's own."""

from torchrelay.shared.processes.shared_memory import HeldPiece, Piece

#: Bits are put together up to this: there may be one for each byte.
_CHUNK_BYTES = 64 * 1024


class GatheredBody:
    """What has come of a body. It holds hardly more than that, and moves none of it until it is whole."""

    def __init__(self, piece: HeldPiece | None = None) -> None:
        """Gather it in a piece of memory that is as large as it will be, or without one, of any size."""
        self.size = 0
        self._piece = piece
        self._chunks: list[bytearray] = []

    def add(self, data: bytes | bytearray) -> None:
        """Put data behind what has come. Raises ValueError where that is more than there is memory for."""
        self.size += len(data)
        if self._piece is not None:
            self._piece.write(data)
        elif self._chunks and len(self._chunks[-1]) < _CHUNK_BYTES:
            self._chunks[-1] += data
        else:
            self._chunks.append(bytearray(data))

    def whole(self) -> bytes | Piece:
        """Return all of it, which is the caller's from then on."""
        if self._piece is not None:
            return self._piece
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)
