"""Keys, prices and the ledger in the admin."""

from accounting.admin import api_keys, ledger, prices

__all__ = ["api_keys", "ledger", "prices"]
