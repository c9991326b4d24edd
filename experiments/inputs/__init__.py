"""What pairs refer to: real source images, masks and ideal results, read from files."""
