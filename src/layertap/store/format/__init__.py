"""What a store looks like on disk: layouts, metadata, shards, digests."""
