/* Written by `cargo xtask codegen`: the types that have vectors. */
SUBJECT(BlockBody),
SUBJECT(BlockMessage),
SUBJECT(ControlMessage),
SUBJECT(PeersMessage),
SUBJECT(PoolMessage),
SUBJECT(RecordPayload),
SUBJECT(RpcMessage),
SUBJECT(TipMessage),
