"""The whole path on synthetic faces, on one page each."""
