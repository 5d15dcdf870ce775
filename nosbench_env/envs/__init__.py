"""The Gymnasium environments and their vector form."""
