use driftprobe_parquet::open;
use driftprobe_trace::Rows;
use driftprobe_trace::bytes::{PayloadFile, read};
use std::fs;
#[test]
fn tmp() {
    for folder in ["parquet", "payload-zst"] {
        let mut all: Vec<_> =
            fs::read_dir(format!("../../tests/hostile/{folder}")).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        for path in all {
            if folder == "parquet" {
                let got = open(&path).map(|run| (run.events.len(), run.row(&run.events[0]).is_ok()));
                println!("{} {:?}", path.display(), got.map_err(|e| e.to_string()));
            } else {
                let line = br#"{"event":"stage_trace","prompt_id":"p","phase":"decode","point":"logits","payload":{"file":"f","key":"a"}}"#;
                let event = read(line, false, false).unwrap().events.remove(0);
                let got = PayloadFile::new(fs::read(&path).unwrap(), true)
                    .and_then(|f| f.row(&event).map(|row| row.unwrap().to_f64()));
                println!("{} {:?}", path.display(), got);
            }
        }
    }
    for seed in fs::read_dir("../../fuzz/seeds/parquet").unwrap() {
        let path = seed.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let file = if bytes[0] == 0 {
            bytes[1..].to_vec()
        } else {
            let footer = u32::from(u16::from_be_bytes([bytes[1], bytes[2]]));
            [b"PAR1", &bytes[3..], &footer.to_le_bytes(), b"PAR1"].concat()
        };
        println!(
            "{} {:?}",
            path.display(),
            driftprobe_parquet::bytes::open(file).map(|run| run.events.len()).map_err(|e| e.to_string())
        );
    }
    for seed in ["level-3", "level-19-no-check"] {
        let bytes = fs::read(format!("../../fuzz/seeds/payload_zst/{seed}")).unwrap();
        println!("{seed} {:?}", PayloadFile::new(bytes[1..].to_vec(), true).map(|f| f.names()));
    }
}
