package fault

// Kinds lists every kind.
func Kinds() (all []Kind) {
	for k := range table {
		all = append(all, Kind(k))
	}
	return all
}

// RowOf is a kind's row of the table.
func RowOf(k Kind) (code string, status, exit int) {
	return table[k].code, table[k].status, table[k].exit
}
